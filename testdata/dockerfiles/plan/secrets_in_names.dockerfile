# Checks of names.
FROM busybox
ARG NPM_TOKEN PUBLIC_KEY SSH_KEY_FILE tokenizer
ENV AWS_SECRET_ACCESS_KEY=x Db_Password=y
