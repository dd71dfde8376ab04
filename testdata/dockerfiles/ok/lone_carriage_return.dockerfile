# A carriage return inside a line is a blank.
FROM b
RUN ab
ENV A=1B=2
