#!no shebang, just a comment
#no blank
   # indented
#	tab
##two
FROM b
RUN a # not one
