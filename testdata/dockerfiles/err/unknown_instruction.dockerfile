# A misspelt keyword, and one that resembles nothing.
FROM b
RNU echo
EXPLODE now
ENV A=1
