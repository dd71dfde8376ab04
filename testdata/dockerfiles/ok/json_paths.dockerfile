# Paths with blanks as JSON arrays.
FROM b
COPY ["a b", "c", "/d e/"]
ADD --chown=1:2 [ "x" , "/y" ]
VOLUME ["/a b", " /c "]
