# The end mark needs no line end.
FROM b
RUN <<E
a
E