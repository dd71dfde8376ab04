# Octal, symbolic, from a variable, empty.
FROM busybox
ARG M=0755 N
COPY --chmod=600 x/a.txt /k/
COPY --chmod=a+rwX x/a.txt /r/f
COPY --chmod=u=rw,go=r x /new/deep/
COPY --chmod=$M a /b
COPY --chmod=$N a /b
