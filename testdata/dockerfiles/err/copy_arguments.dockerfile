# Sources without a destination.
FROM b
COPY
COPY a
ADD ["a"]
COPY --link a
