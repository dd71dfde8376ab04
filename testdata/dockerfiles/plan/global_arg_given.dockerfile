# build: --build-arg=G=given
# What is given beats every default.
ARG G=g
FROM busybox:$G
ARG G=d
ARG H=$G-h
RUN echo $G $H
