# A script that names its interpreter becomes a file.
FROM busybox
RUN <<E
#!/bin/sh -e
false
echo never
E
