# A script in the file.
FROM b
RUN <<EOF
echo one
# not a comment
  FROM x \
EOF
RUN after
