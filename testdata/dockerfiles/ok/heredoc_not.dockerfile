# Strings, here-strings and words with something before the operator are none.
FROM b
RUN echo "<<A" \<<B c<<D
RUN cat <<<E
COPY ["<<F", "/g"]
