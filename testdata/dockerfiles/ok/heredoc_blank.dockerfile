# A blank may follow the operator, unless no end mark does: then it is a shift.
FROM b
RUN cat << EOF
x
EOF
RUN echo $(( 1 << 2 ))
