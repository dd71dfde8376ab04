# Strings only, in whichever instruction.
FROM b
COPY ["a", 1]
VOLUME [true]
SHELL ["a", null]
ENTRYPOINT [["a"]]
HEALTHCHECK CMD [{}]
RUN [1.5e3]
