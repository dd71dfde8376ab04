# The shell reads the texts itself.
FROM busybox
RUN cat <<A <<B | tr a-z A-Z
x
A
y
B
RUN 3<<A cat <&3
fd3
A
