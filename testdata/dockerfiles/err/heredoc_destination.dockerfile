# A text is no destination.
FROM b
COPY a <<E
x
E
COPY <<E
y
E
COPY <<E <<F
E
F
RUN a
