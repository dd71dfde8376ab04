FROM alpine
COPY https://example.com/a.tar /a.tar
