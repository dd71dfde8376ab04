# An array with something else in it.
FROM b
CMD ["a", 1]
COPY ["a", [","], "b"]
VOLUME [null]
