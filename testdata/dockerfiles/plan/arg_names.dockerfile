# Names of arguments are words too: quoted, or out of variables.
FROM busybox
ENV N=name
ARG "A"=1 $N=2 ${N}_b
RUN echo $name
