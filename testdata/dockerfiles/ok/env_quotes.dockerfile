# Quotes in the middle of a word, escapes inside of quotes, a quote that no escape opens.
FROM b
ENV A=a"b c"d B="x\"y" C='x\' D=a\"b E="it's" F='"'
