# Blank is what Unicode says at the start of a line.
 FROM b
　RUN a
