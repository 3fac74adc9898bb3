#!/usr/bin/env bash
# Builds the Python package in python/, installs it in a fresh environment beside the wheel of the program where one is given, and runs its example.
#
#   scripts/checks/check_python.sh [PROFILE [WHEEL OF THE PROGRAM]]      # the profile of cargo, by default release
#
# Needs Python 3.10 or newer with pip, which fetches maturin, numpy, onnxruntime and mypy.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${1:-release}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '== %s\n' "$*"; }

say "build"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet "maturin>=1.7,<2"
"$work/build/bin/maturin" build --quiet --profile "$profile" --manifest-path python/Cargo.toml --out "$work/wheels"
ls "$work/wheels"

say "install"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$work"/wheels/*.whl ${2:+"$2"} mypy

say "the example"
here=$PWD
run() { (cd "$work" && env -u ORT_DYLIB_PATH -u VIRTUAL_ENV "$work/venv/bin/python" "$@"); }
# A copy: beside the original lies the package's source, which has no library.
cp python/example.py "$work/example.py"
run example.py "$here/models/fixtures/bert_classifier/torchscript.onnx" "$work/adapter"
test -s "$work/adapter/adapter_model.safetensors"

say "types"
run -m mypy.stubtest peft_onnx --ignore-missing-stub --concise || exit 1
echo "The Python package works."
