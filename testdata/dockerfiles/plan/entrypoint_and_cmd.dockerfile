# An ENTRYPOINT drops only a command that was inherited.
FROM busybox AS a
CMD ["c"]
ENTRYPOINT ["e"]
FROM a
ENTRYPOINT ["f"]
