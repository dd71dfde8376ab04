# A child applies the ENV of its parent again, so it beats an inherited ARG.
FROM busybox AS p
ENV X=2
ARG X=1
FROM p
RUN echo $X
