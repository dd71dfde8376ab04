FROM alpine
INCLUDE common.dockerfile
