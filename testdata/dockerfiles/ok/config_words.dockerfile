# Instructions that take one text, blanks included.
FROM b
USER a b
WORKDIR /a dir
STOPSIGNAL --x SIGTERM
MAINTAINER A B <a@example.com>
EXPOSE 80 443/tcp	$P
VOLUME /a  "/b"
SHELL ["/bin/sh", "-exc"]
