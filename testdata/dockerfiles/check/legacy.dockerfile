FROM base
ENV NAME some "quoted"  text
LABEL key value
env K v
MAINTAINER Me <me@example.org>
