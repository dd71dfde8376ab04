#!/usr/bin/env x
# syntax=docker/dockerfile-upstream:master
# A shebang hides directives, but not the syntax.
FROM b
