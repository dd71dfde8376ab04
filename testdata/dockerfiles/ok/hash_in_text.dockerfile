# A number sign that does not begin a line is text.
FROM b
RUN echo a # b
ENV A=#1
