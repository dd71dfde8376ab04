# No array, so a command for the shell.
FROM busybox
RUN ['echo', 'a']
