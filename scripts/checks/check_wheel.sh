#!/usr/bin/env bash
# Builds the wheel and tries it in a fresh environment: its version, ONNX Runtime found beside it, and a model adapted, trained and merged.
#
#   scripts/checks/check_wheel.sh [PROFILE]      # the profile of cargo, by default release
#
# Needs Python 3.10 or newer with pip, which fetches maturin and onnxruntime.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib/wheel.sh

build "${1:-release}"
install "$work"/wheels/peft_onnx-*.whl
program=$work/venv/bin/peft-onnx
# Neither the project's own library nor an active environment helps.
tried() { (cd "$work" && env -u ORT_DYLIB_PATH -u PEFT_ONNX_HOME -u VIRTUAL_ENV -u XDG_DATA_HOME HOME="$work" PATH=/usr/bin:/bin "$program" "$@"); }

say "version"
tried --version
say "the ONNX Runtime beside it"
tried runtime --json >"$work/runtime.json"
"$python" - "$work" <<'PYTHON'
import json, pathlib, sys

work = pathlib.Path(sys.argv[1]).resolve()
found = json.loads((work / "runtime.json").read_text())
library = pathlib.Path(found["library"]).resolve()
assert library.is_relative_to(work / "venv"), f"another library was found: {library}"
print(found["version"], found["source"])
PYTHON

say "adapt, train, merge"
cp models/fixtures/llama/dynamo.onnx "$work/model.onnx"
for last in 4 5 6 7; do
    echo "{\"input_ids\": [1, 2, 3, $last], \"labels\": [1, 2, 3, $last]}"
done >"$work/rows.jsonl"
tried inject model.onnx --method lora -o bundle -q
tried train bundle --data rows.jsonl --max-steps 2 --batch-size 2 --threads 1 -q
test "$(wc -l <"$work/bundle/runs/001/metrics.jsonl")" -ge 2
tried merge bundle -o merged.onnx -q
test -s "$work/merged.onnx"
echo "The wheel works."
