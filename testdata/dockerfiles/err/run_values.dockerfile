# Values that RUN does not know.
FROM b
RUN --network=foo a
RUN --security=foo a
RUN --mount=id="x a
RUN '--mount=a' b
 RUN --mount='id="x"' a
