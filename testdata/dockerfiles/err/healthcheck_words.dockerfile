# Neither NONE nor CMD.
FROM b
HEALTHCHECK curl -f localhost
HEALTHCHECK ["curl"]
HEALTHCHECK --interval=1s
HEALTHCHECK NONE CMD a
