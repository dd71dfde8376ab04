# Numbers, names, groups.
FROM busybox
ARG U=3
COPY --chown=$U f /o
COPY --chown=root f /o
COPY --chown=joe:grp f /o
COPY --chown=:grp f /o
COPY --chown=1:grp f /o
COPY --chown=joe: f /o
