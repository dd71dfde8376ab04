# A new directory belongs to the user of that moment.
FROM busybox
USER 7
WORKDIR /u/v
USER 0
RUN stat /u
