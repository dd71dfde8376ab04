# At least a millisecond, with a unit.
FROM b
HEALTHCHECK --interval=1d CMD a
HEALTHCHECK --timeout=1.5.5s CMD a
HEALTHCHECK --start-period=-1s CMD a
HEALTHCHECK --start-interval=999us CMD a
HEALTHCHECK --interval=99999999h CMD a
HEALTHCHECK --retries=1.5 CMD a
HEALTHCHECK --retries=99999999999 CMD a
HEALTHCHECK []
