# Names and defaults may be quoted.
ARG "A=1"
ARG B="x y" C='$A' D=
FROM b
ARG 'E'=2 "F"
