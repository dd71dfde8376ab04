# Flags of COPY.
FROM b
COPY --from=0 --chown=1:2 --chmod=0755 --link --parents=TRUE --exclude=*.md --exclude=b a b /c/
COPY --link=false --chown= a b
