# Line ends of two characters, in bodies and end marks.
FROM b
COPY <<-E /x
	a
	E
RUN b
