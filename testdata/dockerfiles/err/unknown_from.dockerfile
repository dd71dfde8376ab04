# A misspelt FROM does not make the lines below strangers.
FORM b
RUN a
