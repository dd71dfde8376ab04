# Names of arguments are taken as they are written, with quotes and dollars.
FROM busybox
ENV N=name
ARG "A"=1 $N=2 ${N}_b
RUN echo $name
