# An ARG below an ENV is what steps see; the image keeps what ENV said.
FROM busybox
ENV A=1
ARG A=2
RUN echo $A
