#!/usr/bin/env python3
"""Runs the loops of examples/training_loop on an exported step, and compares their losses with each other and with `peft-onnx train`; and of losses of one term and of two, steps in parts with whole ones.

    python scripts/checks/check_training_loops.py PEFT_ONNX [--node-modules FOLDER] [--headers FOLDER] [--classpath JARS] [--kotlin-compiler KOTLINC] [--assembly FILE]

Needs onnxruntime and numpy. Other languages run as far as there is what they need:

    --node-modules  JavaScript: onnxruntime-node and onnxruntime-web (WASM)
    --headers       C++: the folder of onnxruntime_cxx_api.h (in Debian's libonnxruntime-dev from 13 on); g++ and nlohmann/json
    --classpath     Java: onnxruntime and Jackson, as `java -cp` takes them (Maven Central has com.microsoft.onnxruntime:onnxruntime)
    --kotlin-compiler  Kotlin, with --classpath: kotlinc, by default the one that is installed
    --assembly      C#: Microsoft.ML.OnnxRuntime.dll; mcs and mono, or what --csharp-compiler and --csharp-runner name

C++ and C# load ONNX Runtime from the onnxruntime package of this Python; a jar brings its own. Of Swift's loop nothing is run: its package is for Apple's systems alone.
"""
import argparse
import json
import os
import pathlib
import shutil
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
    if arguments.classpath and arguments.kotlin_compiler:
        run([arguments.kotlin_compiler, "-cp", arguments.classpath, sources / "Train.kt", "-include-runtime", "-d", work / "train.jar"])
        loops["Kotlin"] = ["java", "-cp", os.pathsep.join([str(work / "train.jar"), arguments.classpath]), "TrainKt", *given]
    if arguments.assembly:
        (work / arguments.assembly.name).symlink_to(arguments.assembly.resolve())
        run([arguments.csharp_compiler, "-langversion:latest", f"-r:{arguments.assembly.resolve()}", f"-out:{work / 'Train.exe'}", sources / "Train.cs"])
        loops["C#"] = [arguments.csharp_runner, work / "Train.exe", *given]
    return loops


def in_parts(binary, work):
    """The losses of steps in parts beside those of whole steps, of every kind of count."""
    import numpy as np
    import onnxruntime

    random, rows, length = np.random.default_rng(1), 4, 7
    # The options of a loss, its model, how many texts a row has, and what the two terms are divided by, of some rows.
    labels_of = lambda feeds: int((feeds["labels"][:, 1:] != -100).sum())
    chosen_of = lambda feeds: int((feeds["labels"][: len(feeds["labels"]) // 2, 1:] != -100).sum())
    weights = np.array([1.0, 2.0, 3.0])
    kinds = {
        "labels of tokens": ("llama/torchscript.onnx", [], 1, labels_of, None),
        "orpo": ("llama/torchscript.onnx", ["--task", "preference", "--loss", "orpo"], 2, lambda feeds: len(feeds["labels"]) // 2, chosen_of),
        "classes with weights and a teacher": ("bert_classifier/dynamo.onnx", ["--class-weights", "1,2,3", "--distill-weight", "0.5"], 1, lambda feeds: float(weights[feeds["labels"]].sum()), lambda feeds: len(feeds["labels"])),
    }
    is_fine = True
    for name, (model, options, texts, first, second) in kinds.items():
        folder = work / name.replace(" ", "-")
        run([binary, "inject", FIXTURE.parent / model, "--method", "lora", *options, "-o", folder, "--quiet"])
        run([binary, "export", folder, "--format", "training", "-o", folder / "loop", "--quiet"])
        session = onnxruntime.InferenceSession(folder / "loop/training.onnx")
        own = [port for port in session.get_inputs() if port.name not in ("trainable", "adam_m", "adam_v", "step", "learning_rate")]
        assert ("second_count" in {port.name for port in onnxruntime.InferenceSession(folder / "loop/gradient.onnx").get_inputs()}) == (second is not None), f"{name}: is it a loss of two terms?"

        def made(port):
            shape = [{"batch": rows * texts, "rows": rows}.get(axis, length) if isinstance(axis, str) else axis for axis in port.shape]
            if port.type == "tensor(float)":
                return random.standard_normal(shape).astype(np.float32)
            numbers = {"attention_mask": np.ones(shape), "token_type_ids": np.zeros(shape), "position_ids": np.broadcast_to(np.arange(shape[-1]), shape)}
            return numbers.get(port.name, random.integers(0, 3 if len(shape) == 1 else 60, shape)).astype(np.int64)

        steps, parts, initial = [], ["trainable", "adam_m", "adam_v"], onnxruntime.InferenceSession(folder / "loop/initial.onnx")
        state, expected = dict(zip(parts, initial.run(parts, {}))), []
        for number in range(1, STEPS + 1):
            feeds = {port.name: made(port) for port in own}
            if feeds["labels"].ndim == 2:
                # Parts of unequal weight: as many labels are left out as the row's number says.
                learnt = np.arange(length) >= 3 + np.arange(rows * texts)[:, None] % rows
                feeds["labels"] = np.where(learnt, feeds["input_ids"], -100)
                feeds |= {"completion_mask": learnt.astype(np.float32)} if "completion_mask" in feeds else {}
            # All first texts of a part, then all second ones.
            taken = lambda array, some: array.reshape(-1, rows, *array.shape[1:])[:, some].reshape(-1, *array.shape[1:])
            split = [{key: taken(array, slice(*some)) for key, array in feeds.items()} for some in ((0, 1), (1, rows))]
            steps.append({"parts": [{key: array.tolist() for key, array in part.items()} for part in split], "label_count": first(feeds), "second_count": second(feeds) if second else None})
            loss, *after = session.run(["loss", *(f"{part}_next" for part in parts)], feeds | state | {"step": np.array(number), "learning_rate": np.array(RATE, np.float32)})
            state = dict(zip(parts, after))
            expected.append(float(loss))
        (folder / "steps.json").write_text(json.dumps(steps))
        found = losses(run([sys.executable, ROOT / "examples/training_loop/accumulate.py", folder / "loop", folder / "steps.json", RATE]))
        furthest = max(abs(a / b - 1) for a, b in zip(found, expected))
        is_same = len(found) == len(expected) and furthest < 2e-5
        print(f"{'works' if is_same else 'FAILS'}  steps in parts, {name}: losses off by {furthest:.1e} at most, from {expected[0]:.3f} to {expected[-1]:.3f}")
        is_fine &= is_same
    return is_fine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="PEFT_ONNX")
    parser.add_argument("--node-modules", type=pathlib.Path)
    parser.add_argument("--headers", type=pathlib.Path), parser.add_argument("--classpath"), parser.add_argument("--assembly", type=pathlib.Path)
    parser.add_argument("--kotlin-compiler", default=shutil.which("kotlinc"))
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
        is_fine &= in_parts(binary, work)
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
