ARG BUILD=build
FROM alpine AS build
FROM alpine
COPY --from=$BUILD /a /b
