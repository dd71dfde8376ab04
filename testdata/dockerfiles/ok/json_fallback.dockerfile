# What is no JSON array is text for the shell.
FROM b
RUN ['echo', 'a']
CMD ["a",]
ENTRYPOINT ["a"] b
