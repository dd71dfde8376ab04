# escape=`
# A byte order mark, and directives behind it.
FROM b
RUN a `
 b
