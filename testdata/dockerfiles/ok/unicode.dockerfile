# Spans count bytes, and fall on characters.
FROM b
ENV Ä="ö ü" €=1
RUN echo ☃
