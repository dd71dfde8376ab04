# Many sources over many lines, with comments.
FROM b
COPY package.json \
     # lock files too
     package-lock.json* \
     ./
COPY . .
COPY $A/x ${B:-/y} "/z"
