# check=skip=all;error=true
FROM base AS X
