# A child inherits the arguments of its parent.
FROM busybox AS p
ARG X=1
FROM p
RUN echo $X
