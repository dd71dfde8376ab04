# syntax=docker/dockerfile:1
# A site that is built, served by a server whose configuration is a text with variables.
FROM node:22-alpine AS build
WORKDIR /site
COPY package*.json .
RUN npm ci
COPY . .
ARG BASE_URL=/
RUN npm run build -- --base="$BASE_URL"

FROM nginx:1.29-alpine
ARG PORT=8080
COPY <<EOF /etc/nginx/conf.d/default.conf
server {
    listen $PORT;
    root /usr/share/nginx/html;
    location / {
        try_files \$uri \$uri/ /index.html;
    }
}
EOF
COPY --from=build /site/dist /usr/share/nginx/html
EXPOSE $PORT
LABEL org.opencontainers.image.title="Site" \
      org.opencontainers.image.source="https://git.example/site" \
      org.opencontainers.image.licenses='Apache-2.0'
