

# Blank lines between instructions mean nothing.
   
FROM b
	


RUN a

