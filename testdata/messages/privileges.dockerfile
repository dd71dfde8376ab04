FROM alpine
RUN --network=host true
RUN --security=insecure true
