# Only RUN, COPY and ADD have heredocs.
FROM b
ENV A=<<E B=1
CMD <<E
LABEL a="<<E"
WORKDIR <<E
