# An array may be continued.
FROM b
CMD ["a", \
  "b c", \
# between
  "d"]
