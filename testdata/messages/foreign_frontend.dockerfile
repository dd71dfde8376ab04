# syntax=example.com/frontend:2
FROM alpine
