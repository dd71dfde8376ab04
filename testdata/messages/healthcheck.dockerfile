FROM alpine
HEALTHCHECK --interval=30 CMD true
HEALTHCHECK curl -f http://localhost
