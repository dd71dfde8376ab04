# Blanks before an instruction go, whatever they are.
  FROM b
	RUN a
 	 RUN b  
