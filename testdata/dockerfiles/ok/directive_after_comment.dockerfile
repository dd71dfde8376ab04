# A comment ends the directives: what follows is a comment too.
# escape=`
FROM b
RUN a \
  b
