# ARG may stand before the first FROM, with and without a default.
ARG TAG=1 BARE QUOTED="a b"
FROM busybox:$TAG
