# Base images: plain, with a platform, with a name; AS in any case.
FROM busybox
FROM --platform=$BUILDPLATFORM golang:1 AS Build
from scratch as out-1.x_y
