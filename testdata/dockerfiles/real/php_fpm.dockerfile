# syntax=docker/dockerfile:1
# Extensions, dependencies without development, configuration in the file itself.
FROM composer:2 AS vendor
WORKDIR /app
COPY composer.json composer.lock ./
RUN composer install --no-dev --no-scripts --prefer-dist --optimize-autoloader

FROM php:8.4-fpm-alpine
RUN set -eux; \
    apk add --no-cache icu-libs libzip; \
    apk add --no-cache --virtual .build $PHPIZE_DEPS icu-dev libzip-dev; \
    docker-php-ext-install -j"$(nproc)" intl opcache pdo_mysql zip; \
    apk del .build
COPY <<'EOF' /usr/local/etc/php/conf.d/app.ini
opcache.enable = 1
opcache.validate_timestamps = 0
error_log = ${LOG_FILE}
EOF
COPY --from=vendor /app/vendor /var/www/vendor
COPY . /var/www
RUN chown -R www-data:www-data /var/www/storage
USER www-data
STOPSIGNAL SIGQUIT
EXPOSE 9000
