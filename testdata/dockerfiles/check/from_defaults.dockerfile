ARG NAME
ARG TAG=
FROM $NAME
FROM base:${TAG}
FROM base:${TAG:-latest}
