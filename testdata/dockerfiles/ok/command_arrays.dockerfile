# Blanks around elements, escapes of JSON, an array of one empty string.
FROM b
CMD [ "a" , "b\"c" , "\u00e9\n" ]
ENTRYPOINT [""]
RUN   ["x"]  
