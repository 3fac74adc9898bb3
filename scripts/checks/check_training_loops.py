#!/usr/bin/env python3
"""Runs the loops of examples/training_loop on an exported step, and compares their losses with each other and with `peft-onnx train`.

    python scripts/checks/check_training_loops.py PEFT_ONNX [--node-modules FOLDER]

Needs onnxruntime and numpy; the loop in JavaScript runs on onnxruntime-node and on onnxruntime-web (WASM), as far as --node-modules has them.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIXTURE = ROOT / "models/fixtures/llama"
STEPS, SIZE, RATE = 6, 3, 0.01


def run(command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def losses(text):
    return [json.loads(line)["loss"] for line in text.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="PEFT_ONNX")
    parser.add_argument("--node-modules", type=pathlib.Path)
    arguments = parser.parse_args()
    binary, rows = pathlib.Path(arguments.binary).resolve(), FIXTURE / "cases/lora_qv/train.jsonl"
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run([binary, "inject", FIXTURE / "dynamo.onnx", "--method", "lora", "-o", work / "bundle", "--quiet"])
        run([binary, "export", work / "bundle", "--format", "training", "-o", work / "loop", "--weight-decay", "0.01", "--quiet"])
        train = ["--data", rows, "--max-steps", STEPS, "--batch-size", SIZE, "--learning-rate", RATE, "--weight-decay", "0.01"]
        run([binary, "train", work / "bundle", *train, "--lr-scheduler", "constant", "--no-shuffle", "--quiet"])
        expected = losses((work / "bundle/runs/001/metrics.jsonl").read_text())
        given = [work / "loop", rows, STEPS, SIZE, RATE]
        loops = {"Python": [sys.executable, ROOT / "examples/training_loop/train.py", *given]}
        if arguments.node_modules:
            (work / "node_modules").symlink_to(arguments.node_modules.resolve())
            for name in ("train.js",):
                (work / name).write_text((ROOT / "examples/training_loop" / name).read_text())
            for package in ("onnxruntime-node", "onnxruntime-web"):
                if (arguments.node_modules / package).is_dir():
                    loops[package] = ["node", work / "train.js", *given, package]
        is_fine = True
        for name, command in loops.items():
            found = losses(run(command, cwd=work))
            furthest = max(abs(a / b - 1) for a, b in zip(found, expected))
            is_same = len(found) == len(expected) and furthest < 2e-5
            print(f"{'works' if is_same else 'FAILS'}  {name}: {len(found)} steps, losses off by {furthest:.1e} at most")
            is_fine &= is_same
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
