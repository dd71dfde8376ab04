# Command substitution is text; quotes go; no default, no value.
FROM busybox
ARG A=$(x) C="a b" D
RUN echo "$A|$C|$D"
