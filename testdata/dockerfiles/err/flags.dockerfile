# Unknown, twice, without a value, without a sense.
FROM b
COPY --chwon=1 a b
COPY --from=a --from=b a b
COPY --chown a b
COPY --link=maybe a b
COPY --link= a b
RUN --nothing=x a
ADD --from=x a b
ENV --x A=1
CMD --x
