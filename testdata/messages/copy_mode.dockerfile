FROM alpine
COPY --chmod=0999 a /b
COPY --chmod=u+rwz a /b
