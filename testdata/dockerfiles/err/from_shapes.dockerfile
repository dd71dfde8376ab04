# One word or three.
FROM
FROM a AS
FROM a AS b c
FROM a as
FROM --platform=x
