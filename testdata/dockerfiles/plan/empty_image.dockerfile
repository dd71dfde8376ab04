# Nothing at all.
FROM scratch
