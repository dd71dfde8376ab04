# Letters first, then letters, digits and three signs.
FROM b AS _a
FROM b AS -a
FROM b AS .a
FROM b AS a:b
FROM b AS é
FROM b AS a+b
