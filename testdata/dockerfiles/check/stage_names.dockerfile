FROM base AS build
FROM base AS Build
FROM base AS scratch
FROM base AS context
