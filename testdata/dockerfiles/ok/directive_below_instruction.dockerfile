FROM b
# escape=`
RUN a \
 b
