# check=skip=all;fatal=true
FROM base
