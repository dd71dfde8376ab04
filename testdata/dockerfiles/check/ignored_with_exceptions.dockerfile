FROM base
COPY app.tar /
