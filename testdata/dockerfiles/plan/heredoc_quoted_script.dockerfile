# Quotes around the mark change nothing for RUN: the shell expands.
FROM busybox
ENV V=val
RUN <<"A"
echo $V
A
