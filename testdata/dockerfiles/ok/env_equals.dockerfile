# Only the first equals sign parts name and value.
FROM b
ENV A=b=c B== C="=" D=1=
