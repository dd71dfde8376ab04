FROM --platform=$TARGETPLATFORM base
FROM --platform=${TARGETPLATFORM:-linux/amd64} base
FROM --platform=$BUILDPLATFORM base
FROM --platform=linux/arm64 base
FROM --platform=linux/arm64 base AS tools-arm64
FROM --platform=linux/$TARGETARCH base
FROM --platform=x86_64 base AS amd64
