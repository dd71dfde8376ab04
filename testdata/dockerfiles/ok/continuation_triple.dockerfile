# Three escape characters count as two: no continuation.
FROM b
RUN a \\\
RUN b
