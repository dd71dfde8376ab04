# Blanks at the start of a continued line are text.
FROM b
LABEL k=v\
   l=w
ENV A=1\
 B=2 \
	C=3
