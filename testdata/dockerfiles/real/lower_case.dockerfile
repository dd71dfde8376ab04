# The other style of keywords, consistently.
from alpine as one
run apk add --no-cache git
from one
workdir /src
copy . .
cmd ["git", "status"]
