#!/usr/bin/env bash
# Runs all tests. Needs the Rust toolchain, a C compiler and Python 3.11 with pip (which brings a stock ONNX Runtime, once).
#
#   scripts/test.sh [ARGUMENTS OF cargo test]
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== ONNX Runtime"
scripts/get_onnxruntime.sh cpu
export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$PWD/.ort}
echo "== tests: gradients of every operator against finite differences, training against PEFT's own trajectories, files, the command line"
cargo test --no-fail-fast "$@"
echo
echo "All tests passed."
