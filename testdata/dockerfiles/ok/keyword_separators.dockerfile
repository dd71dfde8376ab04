# Tabs, vertical tabs and form feeds part a keyword from its arguments; other blanks do not.
FROM b
RUN	a
ENVA=1
WORKDIR/w
