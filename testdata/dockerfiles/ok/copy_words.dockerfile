# Words of COPY end at blanks, quoted or not.
FROM b
COPY "a b" /x/
