# check=skip=StageNameCasing,MaintainerDeprecated
FROM base AS X
MAINTAINER me
CMD a
