FROM base AS a
FROM base
COPY . /all
COPY app.tar secrets/key.pem src/ /x/
ADD ./app.tar /
COPY --from=a /app.tar /
COPY <<E /f
x
E
COPY "app.tar" /y/
