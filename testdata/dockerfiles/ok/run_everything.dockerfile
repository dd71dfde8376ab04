# Every flag of RUN at once, one a line.
FROM b
RUN --mount=type=cache,id=apt,target=/var/cache/apt \
    --mount=type=secret,id=t,env=TOKEN \
    --network=host \
    --security=sandbox \
    --device=a --device=b \
    apt-get update
