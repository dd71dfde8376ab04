# escape=`
FROM b
RUN <<E `
> /x
a `
E
COPY <<\F `
  /y
$V
F
