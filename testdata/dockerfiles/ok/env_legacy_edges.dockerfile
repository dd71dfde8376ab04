# The rest of the line is the value, with equals signs and quotes in it.
FROM b
ENV A  b = c
ENV B	"q" 'r'
ENV C a \
  b
LABEL d e=f
