# peft-onnx with its ONNX Runtime.
#
#   docker build -t peft-onnx .                      # on processors
#   docker build -t peft-onnx:cuda --target cuda .   # on NVIDIA's GPUs: docker run --gpus all ...
#   docker run --rm -v "$PWD:/work" peft-onnx inspect model.onnx

FROM rust:1-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY examples examples
COPY README.md ./
# Tests are not built here, but cargo wants the files that Cargo.toml names.
RUN mkdir -p tests/it && touch tests/adapters.rs tests/it/main.rs && cargo build --release --locked --bin peft-onnx

FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/peft-onnx /usr/local/bin/peft-onnx

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=build /source/target/release/peft-onnx /usr/local/bin/peft-onnx
ENV XDG_DATA_HOME=/usr/local/share
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* && peft-onnx runtime install cuda
WORKDIR /work
ENTRYPOINT ["peft-onnx"]

FROM base AS cpu
ENV XDG_DATA_HOME=/usr/local/share
RUN peft-onnx runtime install cpu
# For `serve --host 0.0.0.0 --api-key KEY`.
EXPOSE 8000
WORKDIR /work
ENTRYPOINT ["peft-onnx"]
