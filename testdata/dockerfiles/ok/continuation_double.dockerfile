# Two escape characters do not continue a line.
FROM b
RUN echo a \\
RUN b \  
  c
