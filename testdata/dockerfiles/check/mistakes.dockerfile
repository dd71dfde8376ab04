FROM base AS X
CMD a
COPY --chmod=nonsense a /
STOPSIGNAL NOPE
