# The text of a trigger keeps its files.
FROM b
ONBUILD COPY <<A <<-"B" /d/
$V
A
	$V
B
RUN a
