# A stage named like an image hides it from then on; a later one of the same name hides the first.
FROM busybox AS alpine
RUN one
FROM alpine AS alpine
RUN two
FROM alpine
RUN three
