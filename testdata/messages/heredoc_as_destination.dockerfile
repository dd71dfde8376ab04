FROM alpine
COPY app.conf <<EOF
x
EOF
