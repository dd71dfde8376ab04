# Each file has the name of its mark; of two with one name the last text stays.
FROM scratch
COPY <<a <<b /d/
1
a
2
b
COPY <<c <<c /e/
1
c
2
c
