# check=error=perhaps
FROM base
