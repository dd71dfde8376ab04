# Flags that belong to another instruction, or to none.
FROM b
ADD --from=x a b
ADD --parents a b
COPY --checksum=sha256:0 a b
COPY --unpack a b
COPY --keep-git-dir a b
EXPOSE --proto=udp 80
ENV --x A=1
LABEL --a b
WORKDIR --x /
USER --x y
VOLUME --x /a
SHELL --x ["a"]
ENTRYPOINT --x y
