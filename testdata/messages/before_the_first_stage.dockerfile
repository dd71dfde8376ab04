RUN apk add curl
FROM alpine
