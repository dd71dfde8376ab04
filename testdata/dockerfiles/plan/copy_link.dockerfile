# A layer of its own; the plan keeps owner, mode and link apart.
FROM busybox
COPY --link --chown=5 --chmod=640 f /g/
ADD --link t.tar /x/
