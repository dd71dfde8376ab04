# Keys and values, quoted or not, one line or many.
FROM b
LABEL a=b
LABEL "a b"="c d" e='f g' h="" \
      org.example.vendor="ACME \
Incorporated"
