# Empty arrays clear, empty texts are a shell with nothing to do.
FROM busybox
CMD []
ENTRYPOINT []
RUN
