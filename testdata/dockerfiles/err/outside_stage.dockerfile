# Said once, however many lines stand there.
RUN a
RUN b
FROM b
