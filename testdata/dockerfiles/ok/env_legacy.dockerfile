# A name, and the rest of the line.
FROM b
ENV A b  c=d "e"
LABEL  k	v w
