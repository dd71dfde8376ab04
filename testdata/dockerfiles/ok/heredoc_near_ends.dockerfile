# Only a line that is nothing but the name ends a body.
FROM b
RUN <<E
E 
 E
EE
	E
#E
E
RUN <<-E
 	E
E 
		E
