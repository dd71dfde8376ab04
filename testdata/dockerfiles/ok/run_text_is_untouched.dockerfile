# Nothing of a command is expanded or unquoted.
FROM b
RUN echo "$A" '${B:-c}' \$D `e` "f # g"
RUN set -eux; \
    for x in a b; do \
        echo "$x"; \
    done
