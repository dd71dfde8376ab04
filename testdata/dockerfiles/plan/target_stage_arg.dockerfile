# build: --target=Two
# The target as it was typed.
FROM busybox AS one
FROM busybox AS two
ARG TARGETSTAGE
RUN echo $TARGETSTAGE
FROM busybox
RUN never
