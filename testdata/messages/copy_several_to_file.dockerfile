FROM alpine
COPY a b /etc/app
