# Each file ends before its text does; what would end another text does not end this one.
FROM b
COPY <<A <<B /d/
1
A
2
	B
