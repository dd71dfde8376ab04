# escape=`
# Escape=\
# A directive counts once.
FROM b
