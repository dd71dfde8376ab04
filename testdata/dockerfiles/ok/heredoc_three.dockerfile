# Bodies in the order of their openers.
FROM b
RUN cat <<A <<B <<A
1
A
2
B
3
A
