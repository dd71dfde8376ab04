# An escape character alone on a line continues too, and joins nothing.
FROM b
RUN \
\
  a \
\
  b
