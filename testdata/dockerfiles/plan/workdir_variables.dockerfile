# Variables in paths.
FROM busybox
ENV A=1
WORKDIR /$A/${A}x
RUN pwd
