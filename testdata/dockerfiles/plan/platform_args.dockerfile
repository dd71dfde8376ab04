# build: --platform=linux/arm/v7
# Values of the platform come to those who ask; a default of the stage hides them.
FROM busybox
ARG TARGETPLATFORM TARGETARCH=x TARGETVARIANT BUILDPLATFORM
RUN true
