# Flags stand before the opener.
FROM b
RUN --mount=type=cache,target=/c --network=none <<E
make
E
COPY --chmod=0755 --link <<E /x
a
E
