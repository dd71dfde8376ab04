# Triggers that are none, and one with a mistake.
FROM b
ONBUILD ONBUILD RUN a
ONBUILD FROM b
ONBUILD maintainer x
ONBUILD COPY a
ONBUILD RNU a
ONBUILD --x RUN a
