# Continued lines are joined with nothing in between.
FROM b
EN\
V A=1\
2
