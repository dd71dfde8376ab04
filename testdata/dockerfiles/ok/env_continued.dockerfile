# One setting a line, with comments between.
FROM b
ENV A=1 \
    # the second
    B="two words" \
    C=$A
