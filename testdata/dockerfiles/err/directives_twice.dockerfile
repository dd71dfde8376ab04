# syntax=docker/dockerfile:1
# check=skip=all
# check=error=true
# SYNTAX=docker/dockerfile:1
FROM b
