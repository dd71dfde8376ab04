# Names are lower case; FROM compares as it is written.
FROM busybox AS Base
RUN a
FROM base
RUN b
