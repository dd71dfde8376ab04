# Files, texts and links of a root file system, nothing that runs.
FROM scratch
COPY --chmod=0644 <<hosts <<resolv.conf /etc/
127.0.0.1 localhost
hosts
nameserver 192.0.2.1
resolv.conf
COPY --chmod=0755 --chown=0:0 rootfs/ /
ADD base.tar.xz /
LABEL description="a line \
and its continuation" version=1
