"""What `peft-onnx plan` foretells of memory, beside what `peft-onnx train` takes, for bundles of different kinds.

    python scripts/bench/plan.py [--binary target/release/peft-onnx] [--decoder FOLDER] [--encoder FOLDER] [--only TEXT] [--write docs/PERFORMANCE.md]

FOLDER has an exported model with its tokenizer: a causal language model (SmolLM2-135M in the docs) and an encoder (MiniLM-L6). Rows have the
length that is planned for, all of their labels count. Private memory is the largest RssAnon of the process (/proc/PID/status), of two steps. Exits with 1 if a
plan is off by more than a tenth.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages
from private_memory import peak

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "models/tiny-lm"


def tokens(rows, length):
    ids = [[(row * 31 + place * 7) % 900 + 5 for place in range(length)] for row in range(rows)]
    return [{"input_ids": row, "attention_mask": [1] * length, "labels": row} for row in ids]


def classes(rows, length):
    return [{"text": "the " * (length - 2), "label": row % 2} for row in range(rows)]


def pairs(rows, length):
    return [{"anchor": "the " * (length - 3) + word, "positive": word + " the" * (length - 3)} for word in "a b c d e f g h i j k l m n o p".split()[:rows]]


def tags(rows, length):
    return [{"tokens": ["the"] * (length - 2), "tags": [place % 2 for place in range(length - 2)]} for _ in range(rows)]


def preferences(rows, length):
    half = (length - 2) // 2
    return [{"prompt": "the " * half, "chosen": " a" * half, "rejected": " of" * half} for _ in range(rows)]


# What it is; whose model; options of inject; rows; tokens; rows of data; options of train.
CASES = [
    ("LoRA", "decoder", ["--method", "lora"], 2, 256, tokens, []),
    ("LoRA, all linear layers", "decoder", ["--method", "lora", "--target-modules", "all-linear"], 4, 128, tokens, []),
    ("LoRA, a layer recomputed", "decoder", ["--method", "lora", "--recompute", "layer"], 2, 512, tokens, []),
    ("LoRA, attention recomputed", "decoder", ["--method", "lora", "--recompute", "attention"], 1, 1024, tokens, []),
    ("prefix tuning", "decoder", ["--method", "prefix_tuning", "--num-virtual-tokens", "20"], 2, 256, tokens, []),
    ("prompt tuning", "decoder", ["--method", "prompt_tuning", "--num-virtual-tokens", "20"], 2, 256, tokens, []),
    ("IA3, two rows at a time", "decoder", ["--method", "ia3"], 8, 256, tokens, ["--micro-batch-size", "2"]),
    ("DoRA with dropout", "decoder", ["--method", "lora", "--use-dora", "--lora-dropout", "0.1"], 2, 256, tokens, []),
    ("LoRA, classes", "encoder", ["--method", "lora", "--task", "seq-cls", "--num-labels", "2"], 16, 128, classes, []),
    ("LoRA, sentence embeddings", "encoder", ["--method", "lora", "--task", "embedding"], 16, 128, pairs, []),
    ("LoRA, entities", "encoder", ["--method", "lora", "--task", "token-cls", "--num-labels", "2"], 8, 256, tags, []),
    ("LoRA of a small decoder", "tiny", ["--method", "lora"], 8, 256, tokens, []),
    ("preferences, SimPO", "decoder", ["--method", "lora", "--task", "preference", "--loss", "simpo"], 2, 64, preferences, []),
]


def measured(binary, models, folder, case):
    what, model, inject, rows, length, row, train = case
    bundle, data = folder / "bundle", folder / "rows.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in row(rows, length)))
    run = lambda *arguments: subprocess.run([binary, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
    run("inject", models[model], *inject, "-q", "--force", "-o", bundle)
    sizes = ["--batch-size", rows, "--max-length", length]
    plan = json.loads(run("plan", bundle, *sizes, *train, "--threads", 1, "--json"))["plan"][0]
    options = ["--data", data, *sizes, *train, "--max-steps", 2, "--restart", "--no-shuffle", "-q"]
    return plan["bytes"], peak([binary, "train", str(bundle), *map(str, options)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--decoder", type=pathlib.Path)
    parser.add_argument("--encoder", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=pathlib.Path, help="a page between whose marks the table is written")
    arguments = parser.parse_args()
    models = {"tiny": TINY, "decoder": arguments.decoder, "encoder": arguments.encoder}
    table = ["| bundle | rows x tokens | told, MB | measured, MB | told / measured |", "|---|---|---|---|---|"]
    off = []
    for case in CASES:
        what, model, _, rows, length, _, _ = case
        if models[model] is None or arguments.only not in what:
            continue
        with tempfile.TemporaryDirectory() as folder:
            told, taken = measured(arguments.binary, models, pathlib.Path(folder), case)
        table.append(f"| {what} | {rows} x {length} | {told / 1e6:.0f} | {taken / 1e6:.0f} | {told / taken:.2f} |")
        print(table[-1], flush=True)
        if not 0.9 <= told / taken <= 1.1:
            off.append(what)
    if arguments.write:
        pages.put(arguments.write, "plan", "\n".join(table))
    sys.exit(f"more than a tenth off: {', '.join(off)}" if off else 0)


main()
