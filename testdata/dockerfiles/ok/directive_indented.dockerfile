   # escape=`
FROM b
RUN a `
 b
