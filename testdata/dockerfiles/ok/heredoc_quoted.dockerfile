# Quotes around the name: the body does not expand.
FROM b
COPY <<"A" <<B c /d/
$V
A
$V
B
