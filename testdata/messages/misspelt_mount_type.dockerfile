FROM alpine
RUN --mount=type=cahce,target=/root/.npm npm ci
