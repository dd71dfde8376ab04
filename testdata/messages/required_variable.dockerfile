FROM alpine
ARG VERSION
LABEL version="${VERSION:?give it with --build-arg}"
