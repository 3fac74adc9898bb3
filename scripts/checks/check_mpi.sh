#!/usr/bin/env bash
# Trains in several processes, as MPI starts them, and compares with one process.
#
#   scripts/checks/check_mpi.sh [--model FOLDER]      # an exported causal language model, for the times of 1 and 2 processes with a thread each
#
# Needs an MPI library and libclang; where there is apt-get they are installed. Needs python3 with numpy and safetensors.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v mpirun >/dev/null; then
    command -v apt-get >/dev/null || { echo "there is no mpirun, and no apt-get to get one with: install Open MPI and libclang" >&2; exit 1; }
    sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo apt-get install -y --no-install-recommends libopenmpi-dev openmpi-bin libclang-dev
fi

folder=target/mpi
cargo build --features mpi --bin peft-onnx --target-dir "$folder"
python3 scripts/checks/check_mpi.py "$folder/debug/peft-onnx" "$@"
