# syntax=docker/dockerfile:1.7-labs
# check=skip=JSONArgsRecommended;error=true
# The built-in frontend may be asked for, with check options next to it.
FROM b
