FROM base
# check=skip=JSONArgsRecommended
CMD a

# check=skip=SecretsUsedInArgOrEnv,LegacyKeyValueFormat because
ENV TOKEN x
# check=skip=all
MAINTAINER me
# check=nonsense
ENV KEY y
