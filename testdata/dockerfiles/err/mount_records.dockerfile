# Records that are none.
FROM b
RUN --mount='"type=bind' a
RUN --mount='"type=bind"x' a
RUN --mount='type="bind"' a
