# An escape character and a final line end, nothing else.
FROM b
ENV A=1 \
