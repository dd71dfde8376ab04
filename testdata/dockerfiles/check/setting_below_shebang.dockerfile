#!/usr/bin/env rbuild
# check=skip=all
FROM base AS X
