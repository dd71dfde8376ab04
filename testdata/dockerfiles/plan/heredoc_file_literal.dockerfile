# A quoted mark leaves the text as it is.
FROM busybox
ENV V=val
COPY <<"A" /1
$V \$V
A
