# Durations, retries, both forms, and none.
FROM b
HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0 --start-interval=500ms --retries=3 CMD curl -f x
HEALTHCHECK cmd ["a", "b"]
HEALTHCHECK --interval=1 none
