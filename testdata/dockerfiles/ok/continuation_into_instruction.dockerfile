# What looks like an instruction below an escape character belongs to the one above.
FROM b
RUN a && \
COPY c d
