arg V=1
FROM base:$V as build
run true
Copy a /
FROM base AS B
from base as c
From base as d
