# A continuation that the file ends is just an end.
FROM b
RUN echo a \