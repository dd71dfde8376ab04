# A file of ten years ago.
FROM ubuntu:14.04
MAINTAINER Jane Doe <jane@example.com>
ENV DEBIAN_FRONTEND noninteractive
RUN apt-get update
RUN apt-get install -y apache2
ADD . /var/www
ENV APACHE_RUN_USER www-data
EXPOSE 80
ENTRYPOINT /usr/sbin/apache2 -D FOREGROUND
CMD start
