# The shell of RUN, CMD, ENTRYPOINT and HEALTHCHECK.
FROM busybox
SHELL ["/bin/sh","-exc"]
RUN echo hi
HEALTHCHECK CMD check
CMD echo cmd
ENTRYPOINT entry
