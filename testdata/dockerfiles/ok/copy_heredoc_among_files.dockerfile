# Texts and files in one instruction; a blank and a number before the name.
FROM b
COPY f <<A g 3<< B /d/
1
A
2
B
