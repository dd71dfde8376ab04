FROM base AS parent
SHELL ["/bin/bash", "-c"]
FROM parent
CMD a
cmd b
