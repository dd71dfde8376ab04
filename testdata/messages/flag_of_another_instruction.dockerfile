FROM alpine
ADD --from=build /app /app
