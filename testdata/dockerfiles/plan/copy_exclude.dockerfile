# Excludes are not expanded.
FROM busybox
ENV X=md
COPY --exclude=*.md --exclude=sub --exclude=*.$X x /p/
