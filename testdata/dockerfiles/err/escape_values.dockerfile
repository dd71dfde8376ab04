# escape=\\
FROM b
RUN a
