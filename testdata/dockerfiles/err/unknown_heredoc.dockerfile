# The body of a misspelt instruction is still a body.
FROM b
RUNN <<E
body
E
CPOY a b
