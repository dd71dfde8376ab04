# Triggers run first in the child, with its arguments.
FROM busybox AS par
ONBUILD ARG V=1
ONBUILD COPY $V /a
ONBUILD RUN echo $V
FROM par
RUN own
