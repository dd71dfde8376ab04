# A line that lost its escape character.
FROM b
RUN apt-get update
    && apt-get install -y curl
RUN a
