# A shift inside a word, or before a word that ends nothing, is the shell's; a word that begins with one opens a text.
FROM b
RUN echo $((1<<2)) $(( 1 <<2 ))
body
2
RUN x=1; echo $(( x << 3 ))
