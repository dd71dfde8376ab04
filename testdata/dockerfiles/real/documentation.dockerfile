# syntax=docker/dockerfile:1
# Stages that check each other's results, an output without an image around it.
FROM alpine AS generate
WORKDIR /src
RUN --mount=target=/context --mount=target=.,type=tmpfs <<EOT
  set -e
  rsync -a /context/. .
  make docs
  mkdir /out
  cp -rf docs/reference/* /out
EOT

FROM scratch AS update
COPY --from=generate /out /

FROM generate AS validate
RUN --mount=target=/context <<EOT
  set -e
  if ! diff -r /context/docs/reference /out; then
    echo >&2 'the reference is out of date'
    exit 1
  fi
EOT
