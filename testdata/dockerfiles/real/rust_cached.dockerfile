# syntax=docker/dockerfile:1.7
# Cache mounts for registry, git and target; the program is copied out of the mount in the same step.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
ARG PROFILE=release
RUN --mount=type=bind,source=.,target=/src,rw \
    --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/usr/local/cargo/git/db \
    --mount=type=cache,target=/cargo-target,id=target-$PROFILE \
    <<EOF
set -eu
export CARGO_TARGET_DIR=/cargo-target
cargo build --locked --profile "$PROFILE"
install -D "/cargo-target/$PROFILE/server" /out/server
EOF

FROM debian:bookworm-slim
RUN <<EOF
set -eu
apt-get update
apt-get install -y --no-install-recommends ca-certificates
rm -rf /var/lib/apt/lists/*
useradd --system --uid 10001 app
EOF
COPY --from=build /out/server /usr/local/bin/server
USER app
ENTRYPOINT ["server"]
CMD ["--listen", "0.0.0.0:8080"]
