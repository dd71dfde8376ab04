FROM base AS unused
ENV A=$B
FROM base AS last
ENV C=$D
