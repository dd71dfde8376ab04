# escape=
# syntax=docker/dockerfile:1
FROM b
RUN a \
 b
