#!/usr/bin/env x
# syntax=example.com/other:1 more
# The image behind a shebang is found too.
FROM b
