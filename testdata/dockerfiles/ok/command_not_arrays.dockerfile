# Other JSON, and what only begins like an array, is text.
FROM b
RUN {"a": 1}
RUN "a"
RUN [ -f x ] && y
CMD [a]
ENTRYPOINT ["a" "b"]
VOLUME [ /a ]
