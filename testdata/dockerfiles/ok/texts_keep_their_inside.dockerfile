# One text: inner blanks, quotes and number signs stay.
FROM b
USER  app : staff  
WORKDIR "/a  b"
WORKDIR /c # d
MAINTAINER  A # B \
  C
