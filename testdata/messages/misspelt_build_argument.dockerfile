# build: --build-arg=VERSOIN=2
FROM alpine
ARG VERSION=1
