#!/usr/bin/env bash
# Builds the Python package in python/, installs it in a fresh environment beside the wheel of the program where one is given, and runs its example and README's program.
#
#   scripts/checks/check_python.sh [PROFILE [WHEEL OF THE PROGRAM]]      # the profile of cargo, by default release
#
# Needs Python 3.10 or newer with pip, which fetches maturin, numpy, onnxruntime and mypy.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib/wheel.sh

build "${1:-release}" --manifest-path python/Cargo.toml
install "$work"/wheels/*.whl ${2:+"$2"} mypy

say "the example"
here=$PWD
run() { (cd "$work" && env -u ORT_DYLIB_PATH -u VIRTUAL_ENV "$work/venv/bin/python" "$@"); }
# A copy: beside the original lies the package's source, which has no library.
cp python/example.py "$work/example.py"
run example.py "$here/models/fixtures/bert_classifier/torchscript.onnx" "$work/adapter"
test -s "$work/adapter/adapter_model.safetensors"

say "README's program"
# What the page leaves to the reader: a language model, and batches of its tokens.
cp models/fixtures/llama/torchscript.onnx "$work/model.onnx"
{
    echo 'import numpy as np; batches = [np.array([[1, 5, 9, 4], [1, 7, 3, 8]])] * 3'
    sed -n '/^```python$/,/^```$/{/^```/!p}' python/README.md
} >"$work/readme.py"
run readme.py
test -s "$work/adapter/adapter_config.json" && test -s "$work/tuned.onnx"

say "types"
run -m mypy.stubtest peft_onnx --ignore-missing-stub --concise || exit 1
echo "The Python package works."
