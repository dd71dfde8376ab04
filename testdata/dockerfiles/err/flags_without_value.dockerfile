# Flags that need one.
FROM --platform b
FROM b
RUN --mount a
RUN --network a
COPY --from a b
COPY --exclude a b
ADD --chmod a b
HEALTHCHECK --interval CMD a
