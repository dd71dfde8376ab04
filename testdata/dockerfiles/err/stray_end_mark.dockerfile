# A body that began on the wrong line.
FROM b
RUN cat > /x
hello
EOF
