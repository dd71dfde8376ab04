# syntax=docker/dockerfile:1
# build: --target=api --build-arg=APP=api
# A workspace of several packages: manifests first with their directories, then one application.
FROM node:22-alpine AS manifests
WORKDIR /repo
COPY --parents package.json pnpm-lock.yaml pnpm-workspace.yaml packages/*/package.json ./

FROM node:22-alpine AS dependencies
ENV PNPM_HOME=/pnpm PATH="/pnpm:$PATH"
RUN corepack enable
WORKDIR /repo
COPY --from=manifests /repo ./
RUN --mount=type=cache,id=pnpm,target=/pnpm/store pnpm install --frozen-lockfile

FROM dependencies AS build
ARG APP
COPY --exclude=**/node_modules --exclude=**/*.test.ts packages packages
RUN pnpm --filter "./packages/${APP}..." build \
 && pnpm --filter "./packages/${APP}" deploy --prod /out

FROM node:22-alpine AS api
COPY --from=build /out /srv
WORKDIR /srv
CMD ["node", "main.mjs"]

FROM nginx:alpine AS web
COPY --from=build /repo/packages/web/dist /usr/share/nginx/html
