# build: --target=test
# Stages that only some builds want.
FROM golang:1.25 AS source
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .

FROM source AS test
RUN go vet ./... && go test -race ./...

FROM source AS lint
COPY --from=golangci/golangci-lint:v2.1 /usr/bin/golangci-lint /usr/bin/
RUN golangci-lint run

FROM source AS build
RUN go build -o /app .

FROM gcr.io/distroless/base-debian12:nonroot
COPY --from=build /app /
CMD ["/app"]
