# Several texts for one command.
FROM b
RUN cat <<A 3<<'B' | tr a-z A-Z
x $A
A
y
B
