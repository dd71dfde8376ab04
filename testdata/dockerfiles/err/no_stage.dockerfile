# Only ARG.
ARG A
