# An opener and more.
FROM b
RUN <<A sh -e
false
A
RUN sh <<-A && echo done
	true
	A
RUN a > /x <<A 2>&1
b
A
