# syntax=example.com/docker/dockerfile:1
# Another frontend can not be run.
FROM b
