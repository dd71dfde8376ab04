# Quotes and escapes stay until expansion.
FROM b
ENV A=1 B="x y" C='$A' D=e\ f G= "H I"=j
LABEL "com.example"="a=b" k=v\
  l=w
