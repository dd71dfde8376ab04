# Globals are for FROM; a stage asks for them, or sets its own default.
ARG G=g
FROM busybox AS none
RUN echo [$G]
FROM busybox AS asks
ARG G
RUN echo [$G]
FROM busybox AS own
ARG G=d
RUN echo [$G]
FROM scratch
COPY --from=none /a /
COPY --from=asks /a /
COPY --from=own /a /
