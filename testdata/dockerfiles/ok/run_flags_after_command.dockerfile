# What follows the first word is the command, flags or not.
FROM b
RUN make --mount=type=cache
RUN -- --mount=x
RUN - --network=none
