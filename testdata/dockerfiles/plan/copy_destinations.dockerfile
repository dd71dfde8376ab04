# Relative, with slash, cleaned, directories.
FROM busybox
WORKDIR /w
COPY f .
COPY f sub
COPY f sub2/
COPY x/. sub3
COPY f /a/../b/./c
COPY ../../f ./../up
