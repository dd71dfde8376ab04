# Patterns are kept; they match when the context is known.
FROM busybox
ENV E=txt
COPY nothere* x/[a-c]?.$E /p/
COPY ["a b*", "/p/"]
