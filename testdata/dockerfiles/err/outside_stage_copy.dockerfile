# ARG may stand before the first stage, and nothing else.
ARG A=1
ENV B=$A
COPY a b
FROM b
