FROM alpine
COPY .
