# Expanded words.
FROM busybox
ENV V=/v U=app
VOLUME $V/1 "/quoted"
VOLUME ["$V/2", "/b c"]
USER $U:${G:-staff}
STOPSIGNAL ${S:-sigterm}
