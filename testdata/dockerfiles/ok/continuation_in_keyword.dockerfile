# Lines are joined before words are.
FROM b
R\
UN a
