# Relative paths go on from the one before.
FROM busybox
WORKDIR a
WORKDIR b
WORKDIR /c/./d/../e/
WORKDIR ../..//f
RUN pwd
