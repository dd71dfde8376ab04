# escape=`
FROM alpine
COPY a C:\b\
COPY c `
