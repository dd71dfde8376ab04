# escape=backslash
FROM b
RUN a \
 b
