# escape=`
# The escape character of those whose paths have backslashes.
FROM mcr.microsoft.com/powershell:lts AS build
SHELL ["pwsh", "-Command", "$ErrorActionPreference = 'Stop';"]
ENV TOOLS=C:\tools
RUN New-Item -ItemType Directory $Env:TOOLS; `
    Write-Host "done"
COPY scripts/*.ps1 /scripts/
WORKDIR /work`
/dir
