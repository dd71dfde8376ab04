# about something else
ARG A
FROM base
