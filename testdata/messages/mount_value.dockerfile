FROM alpine
RUN --mount=type=cache,target=/c,sharing=exclusive true
RUN --mount=type=tmpfs,target=/t,size=big true
RUN --mount=type=bind,target=/ true
