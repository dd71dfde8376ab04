# Triggers are parsed where they stand, and kept as text.
FROM b
ONBUILD  run --network=none a \
  b
ONBUILD ENV A=1
