FROM alpine
RUN --mount=type=cache,taget=/root/.npm npm ci
