# Names, values and what is between them.
FROM b
ENV
ENV A
ENV =x
ENV A=1 B C=2
ENV A=${B:?need B}
LABEL a
ARG
ARG =1
