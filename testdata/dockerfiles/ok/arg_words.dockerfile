# Several names on a line; flags are overlooked.
FROM b
ARG A=$(x) C="a b" D
ARG --flag E=1
