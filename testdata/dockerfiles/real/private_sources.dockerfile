# syntax=docker/dockerfile:1
# A private module over SSH, a token in the environment of one step, neither in the image.
FROM alpine/git AS source
RUN mkdir -p -m 0700 ~/.ssh
COPY <<EOF /root/.ssh/known_hosts
git.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ
EOF
RUN --mount=type=ssh git clone git@git.example:team/library.git /library
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc,required,mode=0440 \
    --mount=type=secret,id=token,env=API_TOKEN \
    fetch-assets --token-env API_TOKEN --output /assets

FROM scratch
COPY --from=source /library /library
COPY --from=source /assets /assets
