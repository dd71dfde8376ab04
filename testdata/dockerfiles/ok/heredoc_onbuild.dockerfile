# A trigger may carry a text.
FROM b
ONBUILD RUN <<-E
	echo
	E
RUN a
