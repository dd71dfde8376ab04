# check=skip=StageNameCasing,JSONArgsRecommended;error=false
FROM b AS B
CMD a
