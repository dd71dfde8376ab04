FROM alpine AS build
FROM BUILD
