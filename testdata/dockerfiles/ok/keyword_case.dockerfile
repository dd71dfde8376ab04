# Keywords in any case, and as they were written.
FroM busybox
rUn echo k
label a=b
