#!/usr/bin/env python3
"""Runs the loops of examples/training_loop on an exported step, and compares their losses with each other and with `peft-onnx train`.

    python scripts/checks/check_training_loops.py PEFT_ONNX [--node-modules FOLDER] [--headers FOLDER] [--classpath JARS] [--assembly FILE]

Needs onnxruntime and numpy. Other languages run as far as there is what they need:

    --node-modules  JavaScript: onnxruntime-node and onnxruntime-web (WASM)
    --headers       C++: the folder of onnxruntime_cxx_api.h (in Debian's libonnxruntime-dev from 13 on); g++ and nlohmann/json
    --classpath     Java: onnxruntime and Jackson, as `java -cp` takes them (Maven Central has com.microsoft.onnxruntime:onnxruntime)
    --assembly      C#: Microsoft.ML.OnnxRuntime.dll; mcs and mono, or what --csharp-compiler and --csharp-runner name

C++ and C# load ONNX Runtime from the onnxruntime package of this Python; a jar brings its own.
"""
import argparse
import json
import os
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


def compiled(arguments, work, given):
    """The loops in languages that are compiled, as far as there is what they need."""
    sources, loops = ROOT / "examples/training_loop", {}
    if arguments.headers or arguments.assembly:
        import onnxruntime

        library = next((pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (work / name).symlink_to(library)
    if arguments.headers:
        run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", sources / "train.cpp", "-I", arguments.headers, "-L", work, "-lonnxruntime", "-o", work / "train"])
        loops["C++"] = [work / "train", *given]
    if arguments.classpath:
        loops["Java"] = ["java", "-cp", arguments.classpath, sources / "Train.java", *given]
    if arguments.assembly:
        (work / arguments.assembly.name).symlink_to(arguments.assembly.resolve())
        run([arguments.csharp_compiler, "-langversion:latest", f"-r:{arguments.assembly.resolve()}", f"-out:{work / 'Train.exe'}", sources / "Train.cs"])
        loops["C#"] = [arguments.csharp_runner, work / "Train.exe", *given]
    return loops


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="PEFT_ONNX")
    parser.add_argument("--node-modules", type=pathlib.Path)
    parser.add_argument("--headers", type=pathlib.Path), parser.add_argument("--classpath"), parser.add_argument("--assembly", type=pathlib.Path)
    parser.add_argument("--csharp-compiler", default="mcs"), parser.add_argument("--csharp-runner", default="mono")
    arguments = parser.parse_args()
    binary, rows = pathlib.Path(arguments.binary).resolve(), FIXTURE / "cases/lora_qv/train.jsonl"
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run([binary, "inject", FIXTURE / "torchscript.onnx", "--method", "lora", "-o", work / "bundle", "--quiet"])
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
        loops |= compiled(arguments, work, given)
        is_fine = True
        for name, command in loops.items():
            # onnxruntime-node brings a library of its own.
            of_python = {} if command[0] == "node" else {"LD_LIBRARY_PATH": str(work)}
            found = losses(run(command, cwd=work, env={**os.environ, **of_python}))
            furthest = max(abs(a / b - 1) for a, b in zip(found, expected))
            is_same = len(found) == len(expected) and furthest < 2e-5
            print(f"{'works' if is_same else 'FAILS'}  {name}: {len(found)} steps, losses off by {furthest:.1e} at most")
            is_fine &= is_same
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
