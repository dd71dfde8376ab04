# Yes or no.
FROM b
COPY --link=yes a b
COPY --parents=1 a b
ADD --unpack=no a b
ADD --keep-git-dir=0 a b
