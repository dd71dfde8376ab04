from base as build
run true
RUN true
