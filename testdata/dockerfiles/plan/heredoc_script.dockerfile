# The body is the script; nothing is added to it.
FROM busybox
RUN <<E
false
echo after
E
