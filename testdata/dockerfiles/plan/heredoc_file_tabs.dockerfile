# A dash takes tabs off, also before the end mark.
FROM busybox
COPY <<-A /1
		x
	y
	A
