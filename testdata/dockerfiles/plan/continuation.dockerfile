# Joined without comments and empty lines, but with the blanks.
FROM busybox
RUN echo a \
# c
   b \

 c
