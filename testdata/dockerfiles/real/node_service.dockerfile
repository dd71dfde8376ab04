# syntax=docker/dockerfile:1
# A web service: dependencies twice (all to build, few to run), an unprivileged user.
ARG NODE_VERSION=22

FROM node:${NODE_VERSION}-bookworm-slim AS base
ENV NODE_ENV=production
WORKDIR /srv/app

FROM base AS build
RUN --mount=type=bind,source=package.json,target=package.json \
    --mount=type=bind,source=package-lock.json,target=package-lock.json \
    --mount=type=cache,id=npm,target=/root/.npm,sharing=locked \
    npm ci --include=dev
COPY --link tsconfig.json ./
COPY --link src ./src
RUN npm run build && npm prune --omit=dev

FROM base AS run
COPY --link --from=build --chown=1000:1000 /srv/app/node_modules ./node_modules
COPY --link --from=build --chown=1000:1000 /srv/app/dist ./dist
USER node
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s --retries=3 \
    CMD ["node", "-e", "fetch('http://127.0.0.1:3000/health').then(r => process.exit(r.ok ? 0 : 1))"]
CMD ["node", "dist/server.js"]
