# escape=`
FROM b
SHELL ["powershell", "-Command", "$x = 'a';"]
RUN Write-Host `
  "C:\dir\"
COPY a C:\b\
WORKDIR C:\app
