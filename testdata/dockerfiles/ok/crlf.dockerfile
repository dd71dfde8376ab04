# Line ends of two characters.
FROM b
RUN a \
  b
COPY <<E /x
one
E
