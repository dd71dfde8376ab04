# Bodies begin below the last line of the instruction.
FROM b
RUN cat <<A \
  > /x
body
A
