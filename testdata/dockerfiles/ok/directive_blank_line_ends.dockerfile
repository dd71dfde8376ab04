# check=error=true

# escape=`
FROM b
RUN a \
 b
