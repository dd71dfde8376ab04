# Values may be quoted, empty or escaped; yes and no in any case.
FROM b
COPY --chown="1:2" --from='a b' --chmod= x y
COPY --link=FALSE --parents=True a b
COPY --exclude=a\ b --exclude="c d" x y
