# A body may be empty.
FROM b
RUN <<E
E
