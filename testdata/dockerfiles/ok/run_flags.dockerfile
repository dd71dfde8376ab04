# Flags of RUN; mounts are CSV records.
FROM b
RUN --mount=type=cache,target=/c --mount=type=secret,id=x,required --network=none --security=insecure make
RUN --mount="type=bind,target=/a b",ro --device=vendor/class=x,required -- --not-a-flag
RUN --mount='type=bind,"source=a,b"' c
