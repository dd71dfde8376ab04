# foo=bar
# An unknown name ends the directives.
# escape=`
FROM b
RUN a \
  b
