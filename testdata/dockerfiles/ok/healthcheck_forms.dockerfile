# Words in any case, fractions, zero, one flag a line.
FROM b
healthcheck none
Healthcheck --interval=1h2m3.5s \
  --timeout=0s \
  --start-period=0 cmd ["a", "b"]
HEALTHCHECK --retries=0 --start-interval=1ms CMD a && b || exit 1
