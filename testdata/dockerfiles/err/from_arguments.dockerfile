# Too few, too many, the wrong word, a wrong name.
FROM
FROM a b
FROM a is b
FROM a AS 1b
FROM a AS b/c
FROM --platfrom=x a
