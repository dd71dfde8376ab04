# Restored by project file, published by platform.
FROM --platform=$BUILDPLATFORM mcr.microsoft.com/dotnet/sdk:9.0 AS build
ARG TARGETARCH
WORKDIR /source
COPY --link App/*.csproj App/
RUN dotnet restore App/App.csproj -a $TARGETARCH
COPY --link App/ App/
RUN dotnet publish App/App.csproj -a $TARGETARCH --no-restore -o /app

FROM mcr.microsoft.com/dotnet/aspnet:9.0
EXPOSE 8080
WORKDIR /app
COPY --link --from=build /app .
USER $APP_UID
ENTRYPOINT ["./App"]
