# check=error=true
FROM alpine AS Build
CMD start
