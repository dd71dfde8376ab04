# Without the dash tabs are text.
FROM b
RUN <<E
	a
	E
