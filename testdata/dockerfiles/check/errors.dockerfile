# check=error=true
FROM base AS X
MAINTAINER me
