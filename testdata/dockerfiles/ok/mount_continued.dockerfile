# A mount over several lines.
FROM b
RUN --mount=type=cache,\
target=/c \
    --mount=type=tmpfs,target=/t \
    make
