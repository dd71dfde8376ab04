# A lone pair of dashes ends the flags; flags behind a path are paths.
FROM b
COPY -- --from=a b
COPY a --chown=1 b
ADD -- a b
