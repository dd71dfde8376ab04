# The last one stays; a warning says so.
FROM busybox
COPY x/a.txt y/a.txt /z
