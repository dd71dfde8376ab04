FROM alpine
WORKDIR /a
CPOY . .
