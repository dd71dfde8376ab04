FROM base
# nothing of the kind
# check=experimental=all
ARG A
