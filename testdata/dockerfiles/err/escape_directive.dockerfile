# escape=ab
# Only two characters escape.
FROM b
