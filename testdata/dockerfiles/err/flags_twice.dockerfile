# Only lists may be given twice.
FROM --platform=a --platform=b b
FROM b
RUN --network=none --network=none a
RUN --security=sandbox --security=sandbox a
COPY --chown=1 --chown=1 a b
COPY --link --link a b
ADD --checksum=a --checksum=a a b
HEALTHCHECK --retries=1 --retries=2 CMD a
