# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY migrations migrations
COPY config/metadefs config/metadefs
COPY benches benches
RUN cargo build --release --locked --bin glimpse

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --home-dir /var/lib/glimpse --create-home glimpse
COPY --from=build /src/target/release/glimpse /usr/local/bin/glimpse
USER glimpse
WORKDIR /var/lib/glimpse
VOLUME /var/lib/glimpse
# Loopback would be reachable only inside the container. Callers are still authenticated.
ENV GLIMPSE_DATA_DIR=/var/lib/glimpse/data OS_DEFAULT__BIND_HOST=0.0.0.0
EXPOSE 9292
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s CMD ["curl", "-fsS", "http://127.0.0.1:9292/healthcheck"]
ENTRYPOINT ["glimpse"]
