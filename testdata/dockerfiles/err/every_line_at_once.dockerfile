# All mistakes of a file are told, and what is right is understood.
FRM b
FROM b AS 1
RUN --mout=x a
COPY a
ENV A
EXPOSE
USER
CMD ["a", 1]
HEALTHCHECK FOO
ONBUILD FROM b
LABEL a=b c
RUN ok
