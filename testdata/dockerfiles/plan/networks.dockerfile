# build: --allow-network-host
# A step without, one with that of the host, one as the build says.
FROM busybox
RUN --network=none ip a
RUN --network=host ip a
RUN --network=default ip a
