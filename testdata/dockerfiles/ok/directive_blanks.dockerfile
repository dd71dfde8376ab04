#  syntax	 =  docker/dockerfile:1   with more words  
# eScApE=`
FROM b
RUN a `
 b
