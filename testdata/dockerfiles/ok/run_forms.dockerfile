# Shell form, exec form, nothing at all.
FROM b
RUN echo "a  b"
RUN ["echo", "a b", "\u0041"]
RUN
