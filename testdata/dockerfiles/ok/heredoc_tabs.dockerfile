# A dash takes leading tabs off.
FROM b
COPY <<-A /1
		x
  y
	A
