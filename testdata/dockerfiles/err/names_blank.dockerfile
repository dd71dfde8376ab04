# Names of nothing.
FROM b
ENV A=1 =2
LABEL =a b=c
ARG A =1
ARG ''=2
