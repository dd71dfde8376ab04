# build: --build-arg=http_proxy=http://p --build-arg=NO_PROXY=a,b
# Steps see them in both cases, history and image do not.
FROM busybox
RUN a
