#!/usr/bin/env bash
# From a fresh clone to a fine-tuned model: gets ONNX Runtime, builds the program, and teaches a small novel-reading language model to talk
# like a play. About five minutes on two cores, most of it compiling.
#
#   scripts/quickstart.sh [--device cpu|cuda]
set -euo pipefail
cd "$(dirname "$0")/.."
device=cpu
if [ "${1:-}" = --device ]; then device=${2:?"--device needs a value"}; fi
model=models/tiny-lm
out=${PEFT_ONNX_QUICKSTART:-out/quickstart}
prompt=$'Duke Senior: What is your name, young man?\nTouchstone:'
step() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "peft-onnx ${*}"; target/release/peft-onnx "$@"; }
generate() { run generate "$1" --tokenizer $model/tokenizer.json --prompt "$prompt" --max-new-tokens 40 --temperature 0.7 --seed 1; echo; }

step "1/7 a stock ONNX Runtime"
scripts/get_onnxruntime.sh "$([ "$device" = cpu ] && echo cpu || echo cuda)"
export ORT_DYLIB_PATH=$PWD/.ort
step "2/7 the program"
cargo build --release
rm -rf "$out" && mkdir -p "$out"
step "3/7 inspect: what is in the model"
run inspect $model/model.onnx
step "4/7 what it writes before"
generate $model/model.onnx
step "5/7 inject LoRA, and train"
run inject $model/model.onnx --method lora --rank 16 --alpha 32 -o "$out/bundle"
run eval "$out/bundle" --data models/finetune/eval.jsonl --tokenizer $model/tokenizer.json --device "$device"
run train "$out/bundle" --data models/finetune/train.jsonl --eval-data models/finetune/eval.jsonl --tokenizer $model/tokenizer.json \
    --batch-size 8 --max-steps 200 --learning-rate 4e-3 --eval-steps 100 --device "$device"
step "6/7 merge, checked against the unmerged model"
run merge "$out/bundle" -o "$out/merged.onnx"
step "7/7 what it writes after"
generate "$out/merged.onnx"

step "done"
cat <<TXT
The merged model is $out/merged.onnx: same inputs and outputs as $model/model.onnx, for any ONNX runtime.
The adapter is $out/bundle/adapter_model.safetensors: Hugging Face PEFT reads it.
Every step's loss is in $out/bundle/runs/001/metrics.jsonl.
Next: README.md walks through the same with a real 135M-parameter model; peft-onnx --help explains every command.
TXT
