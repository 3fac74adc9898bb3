#!/usr/bin/env bash
# Fills fuzz/corpus with whole files of every kind.
#
#   fuzz/seed.sh
set -euo pipefail
cd "$(dirname "$0")/.."
put() { mkdir -p "fuzz/corpus/$1" && cat >"fuzz/corpus/$1/$2"; }
for model in models/fixtures/*/*.onnx; do
    [ "$(stat -c %s "$model" 2>/dev/null || stat -f %z "$model")" -lt 300000 ] && put model "$(echo "$model" | tr / -)" <"$model"
done
for file in models/fixtures/*/cases/*/adapter*/adapter_model.safetensors; do put safetensors "$(echo "$file" | tr / -)" <"$file"; done
for file in models/fixtures/*/cases/*/adapter*/adapter_config.json; do put configuration "$(echo "$file" | tr / -)" <"$file"; done
program=${PEFT_ONNX:-target/release/peft-onnx}
if [ -x "$program" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    printf '{"input_ids":[1,2,3,4],"labels":[1,2,3,4]}\n' >"$work/rows.jsonl"
    "$program" inject models/fixtures/llama/dynamo.onnx --method lora -o "$work/bundle" --quiet
    "$program" train "$work/bundle" --data "$work/rows.jsonl" --max-steps 1 --batch-size 1 --quiet
    put manifest bundle <"$work/bundle/peft-onnx.json"
    for file in $(find "$work/bundle" -name trainer.json); do put checkpoint record <"$file"; done
else
    echo "manifest and checkpoint start from nothing: $program is not there (cargo build --release, or PEFT_ONNX=PROGRAM)"
fi
for choice in 0 1 2 3 4 8 12; do
    { printf '%b' "\\x0$(printf '%x' "$choice")"; head -n 3 models/finetune/eval.jsonl; } | put data_rows "rows-$choice"
done
printf '{{ bos_token }}{%% for m in messages %%}{{ m.role | upper }}: {{ m["content"] | trim }}{%% endfor %%}' | put template loop
python3 -c 'import json; print(json.load(open("models/tiny-lm/tokenizer_config.json")).get("chat_template") or "", end="")' | put template tiny-lm
put parquet rows <tests/fixtures/rows.parquet
for file in tests/fixtures/media/*; do
    case $file in
    *.png | *.bmp | *.gif | *.webp | *.jpg) { printf '{"size": {"shortest_edge": 9}, "crop_pct": 0.9}\n---\n' && cat "$file"; } | put image "$(basename "$file")" ;;
    *.wav | *.flac | *.mp3 | *.ogg) { printf '{"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1}\n---\n' && cat "$file"; } | put sound "$(basename "$file")" ;;
    esac
done
ls fuzz/corpus
