# A child inherits the shell, and arrays have none.
FROM busybox AS p
SHELL ["/bin/bash", "-c"]
FROM p
RUN a
RUN ["b"]
