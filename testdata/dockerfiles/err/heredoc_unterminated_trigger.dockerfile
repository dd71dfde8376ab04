# In a trigger too.
FROM b
ONBUILD RUN <<E
a
