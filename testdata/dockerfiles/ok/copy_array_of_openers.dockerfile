# In an array nothing opens a text.
FROM b
COPY ["<<A", "b"]
RUN ["cat", "<<A"]
ADD ["<<-A", "c"]
