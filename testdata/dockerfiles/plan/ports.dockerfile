# Ranges, protocols, words out of a variable.
FROM busybox
ARG P="80 81/udp"
EXPOSE $P 9000-9002/TCP 443
