# The last line needs no end.
FROM b
RUN a