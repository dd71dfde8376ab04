# escape=`
# The backtick as escape character: backslashes are text.
FROM b
RUN a`
 b \
COPY a `
  b
ENV A="x`"y" B=C:\d
