# The nearest flag of the same instruction is named.
FROM b
RUN --mout=type=cache,target=/c a
RUN --netwrok=none a
COPY --form=x a b
COPY --lnik a b
ADD --chceksum=x a b
HEALTHCHECK --retry=1 CMD a
HEALTHCHECK --time-out=1s CMD a
