# Comment lines inside an instruction are taken out.
FROM b
RUN echo a \
# c
   # d \
   b
