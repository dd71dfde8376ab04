# A server compiled with its build tools removed in the same step; files verified by digest.
FROM alpine:3.22
RUN set -eux; \
	addgroup -g 70 -S store; \
	adduser -u 70 -S -D -G store -H -h /var/lib/store -s /bin/sh store
ENV STORE_VERSION 8.1.0
ENV STORE_SHA256 0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0
RUN set -eux; \
	\
	apk add --no-cache --virtual .build-deps \
		gcc \
		linux-headers \
		make \
		musl-dev \
	; \
	wget -O store.tar.gz "https://download.example/store-$STORE_VERSION.tar.gz"; \
	echo "$STORE_SHA256 *store.tar.gz" | sha256sum -c -; \
	mkdir -p /usr/src/store; \
	tar -xzf store.tar.gz -C /usr/src/store --strip-components=1; \
	make -C /usr/src/store -j "$(nproc)" all install; \
	# what the program needs stays
	apk add --no-network --virtual .run-deps libgcc; \
	apk del --no-network .build-deps; \
	rm -r store.tar.gz /usr/src/store
RUN mkdir /data && chown store:store /data
VOLUME /data
WORKDIR /data
COPY docker-entrypoint.sh /usr/local/bin/
ENTRYPOINT ["docker-entrypoint.sh"]
EXPOSE 6379
CMD ["store-server"]
