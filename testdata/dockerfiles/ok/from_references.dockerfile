# Registries, ports, tags, digests, variables.
ARG R=r
FROM registry.example:5000/a/b:1.2-x
FROM a@sha256:0000000000000000000000000000000000000000000000000000000000000000 AS Pinned
FROM ${R}/b:$T aS x
FROM --platform=linux/arm/v7 "b" AS y9
