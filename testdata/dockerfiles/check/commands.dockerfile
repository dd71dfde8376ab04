FROM base
CMD node server.js
CMD echo "$HOME" && ls
ENTRYPOINT
FROM base
SHELL ["/bin/bash", "-c"]
CMD a
ENTRYPOINT ["b"]
HEALTHCHECK CMD x
HEALTHCHECK NONE
FROM base
CMD a
SHELL ["/bin/sh"]
