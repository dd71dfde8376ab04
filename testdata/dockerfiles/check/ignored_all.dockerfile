FROM base
COPY . /
COPY / /
