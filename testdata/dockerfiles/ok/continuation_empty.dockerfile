# An empty line inside an instruction is skipped with a warning.
FROM b
RUN echo a \

   b
RUN c
