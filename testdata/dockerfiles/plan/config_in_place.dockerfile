# Names set again keep their place in the image and move to the end for steps.
FROM busybox
ENV A=1 B=2
ENV A=3
LABEL a=1 b=2
LABEL a=3
RUN env
