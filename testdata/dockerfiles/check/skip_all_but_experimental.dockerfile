# check=skip=all;experimental=all
FROM base AS X
# words
ARG A
