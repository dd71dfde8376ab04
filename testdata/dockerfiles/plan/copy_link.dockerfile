# An independent layer, with owner and mode.
FROM busybox
COPY --link --chown=5 --chmod=640 f /g/
ADD --link t.tar /x/
