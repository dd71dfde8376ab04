# Of two files with one name the last body counts.
FROM b
COPY <<A <<A /d/
one
A
two
A
