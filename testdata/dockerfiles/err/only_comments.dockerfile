# No instruction at all.

# x
