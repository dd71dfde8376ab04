# Mistakes of a stage that nothing needs do not matter.
FROM busybox AS x
COPY --from=y /a /b
FROM busybox AS y
RUN a
