# In a file dollars are variables, backslashes go, quotes stay.
FROM busybox
ENV V=val
COPY <<A /1
$V \$V "q" ${W:-d} \\ \n
A
