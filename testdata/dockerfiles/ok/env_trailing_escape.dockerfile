# An escape character at the very end is dropped.
FROM b
ENV A=b\\\
