# One image for every role: `flyball serve --role …`, and `flyball migrate` before it.
FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/flyball ./cmd/flyball

FROM debian:12.11-slim
# Status pages are read over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/flyball /usr/local/bin/flyball
COPY deploy/flyball.yaml /etc/flyball/flyball.yaml
# A new volume takes the owner of the folder that it covers.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/flyball/spool
USER 65532:65532
WORKDIR /var/lib/flyball
EXPOSE 8080 8088 4317
ENTRYPOINT ["flyball"]
CMD ["serve", "--role", "worker,ingest,gateway,console", "--config", "/etc/flyball/flyball.yaml"]
