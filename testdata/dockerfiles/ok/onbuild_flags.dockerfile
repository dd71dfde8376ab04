# Triggers have the flags and forms of their instructions.
FROM b
ONBUILD COPY --from=x --chown=1 a b
onbuild add --chmod=600 a /
ONBUILD HEALTHCHECK --retries=1 CMD ["x"]
ONBUILD RUN ["a", "b"]
ONBUILD ARG A=1
