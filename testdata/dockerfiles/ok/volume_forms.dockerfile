# Words or an array.
FROM b
VOLUME /a
VOLUME /b /c
VOLUME ["/d e"]
VOLUME $V "/f g"
