FROM alpine:3.22:latest
