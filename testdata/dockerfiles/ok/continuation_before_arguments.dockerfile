# Arguments may begin below the keyword.
FROM \
  b \
  AS c
COPY \
  --from=x \
  a \
  b
