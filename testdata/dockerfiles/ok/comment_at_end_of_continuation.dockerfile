# A comment may be the last thing the file says of an instruction.
FROM b
RUN a \
# the end