# build: --target=relaese
FROM alpine AS test
FROM alpine AS release
