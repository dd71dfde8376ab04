# A stage by name in any case, by number, an image, nothing.
FROM busybox AS Base
RUN a
FROM busybox
COPY --from=bASE /a /1
COPY --from=0 /a /2
COPY --from=alpine:3 /etc/os-release /3
COPY --from=scratch / /4
