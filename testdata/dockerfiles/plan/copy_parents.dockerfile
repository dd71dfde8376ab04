# Parents begin behind the pivot.
FROM busybox
COPY --parents ./x/a.txt ./y/a.txt /p/
COPY --parents ./x/./sub/* /p/
COPY --parents **/*.txt /p/
