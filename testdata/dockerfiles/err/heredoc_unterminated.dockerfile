# The file ends first.
FROM b
RUN <<E
false
 E
