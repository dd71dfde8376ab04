# A body is not read: directives, comments, instructions, openers, escape characters.
# escape=`
FROM b
COPY <<'E' /Dockerfile
# escape=`
FROM x \
RUN <<F

F
`
E
RUN a
