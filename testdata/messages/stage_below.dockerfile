FROM alpine AS run
COPY --from=build /a /b
FROM run
FROM alpine AS build
FROM run AS last
