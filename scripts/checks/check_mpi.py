"""What several processes of a program that was built with MPI do, beside one process.

    python scripts/checks/check_mpi.py target/mpi/debug/peft-onnx [--model FOLDER]

Needs numpy, safetensors, mpirun (Open MPI). Each check prints what it saw; the first that fails ends the script.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "models" / "fixtures"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{n}" for n in range(40)]


def tokens(at):
    length = 3 + at * 5 % 7
    ids = [(place * place * 5 + place * 3 + at) % 60 + 3 for place in range(length)]
    return {"input_ids": ids, "labels": [-100 if place < at % 3 else id for place, id in enumerate(ids)]}


def words(seed):
    return " ".join(f"w{(7 * seed + 5 * place + seed * place) % 40}" for place in range(3 + seed % 4))


def tokenizer():
    special = [{"id": id, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for id, word in enumerate(WORDS[:5])]
    around = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    model = {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": around, "decoder": None, "model": model}


# What is trained, with the options of one process of N times the work and those of each of N.
CASES = [
    ("LoRA of a causal language model, dropout", "llama/torchscript.onnx", ["--lora-dropout", "0.2"], tokens,
     lambda n: ["--batch-size", "2", "--gradient-accumulation-steps", str(n)], ["--batch-size", "2"]),
    ("a classifier", "bert_classifier/dynamo.onnx", ["--task", "seq-cls"], lambda at: {"text": words(at), "label": at % 3},
     lambda n: ["--batch-size", "2", "--gradient-accumulation-steps", str(n)], ["--batch-size", "2"]),
    ("embedding, in parts of a batch", "bert_encoder/dynamo.onnx", ["--task", "embedding"],
     lambda at: {"anchor": words(at), "positive": words(at + 100)},
     lambda n: ["--batch-size", str(2 * n), "--micro-batch-size", "1"], ["--batch-size", "2", "--micro-batch-size", "1"]),
    ("packed rows", "llama/torchscript.onnx", [], tokens,
     lambda n: ["--batch-size", "2", "--packing", "--max-length", "12", "--gradient-accumulation-steps", str(n)],
     ["--batch-size", "2", "--packing", "--max-length", "12"]),
]


class Check:
    def __init__(self, binary, folder):
        self.binary, self.folder = str(pathlib.Path(binary).resolve()), pathlib.Path(folder)

    def run(self, *arguments, processes=None, expect=0):
        launcher = [] if processes is None else self.launcher(processes)
        done = subprocess.run([*launcher, self.binary, *map(str, arguments)], capture_output=True, text=True, timeout=600)
        if (done.returncode == 0) != (expect == 0):
            sys.exit(f"{' '.join([*launcher, *map(str, arguments)])}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def launcher(self, processes):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        return ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-n", str(processes)]

    def prepared(self, name, model, inject, row, rows=11):
        folder = self.folder / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes((FIXTURES / model).read_bytes())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row(at)) + "\n" for at in range(rows)))
        bundle = folder / "bundle"
        self.run("inject", folder / "model.onnx", "--method", "lora", "--init-lora-weights", "random", *inject, "-q", "-o", bundle)
        return bundle, data


def steps(bundle, run="001"):
    lines = (bundle / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "grad_norm" in row]


def adapter(folder):
    return numpy.concatenate([tensor.ravel() for tensor in load_file(folder / "adapter_model.safetensors").values()])


def compare(what, one, several):
    first, second = steps(one), steps(several)
    assert len(first) == len(second), f"{what}: {len(first)} steps and {len(second)}"
    worst = max(abs(a[name] - b[name]) / max(1, abs(a[name])) for a, b in zip(first, second) for name in ("loss", "grad_norm"))
    apart = abs(adapter(one) - adapter(several)).max()
    rows = all(a["tokens"] == b["tokens"] for a, b in zip(first, second))
    print(f"{what}: {len(first)} steps, losses and norms within {worst:.1e}, adapters within {apart:.1e}, the same rows: {rows}")
    assert worst < 2e-5 and apart < 2e-4 and rows, what


def equality(check):
    for number, (what, model, inject, row, alone, each) in enumerate(CASES):
        for processes, stage in ((2, 0), (2, 1), (3, 0), (3, 1)):
            one, data = check.prepared(f"one-{number}-{processes}-{stage}", model, inject, row)
            check.run("train", one, "--data", data, "--epochs", 2, "--lr", 0.01, "-q", *alone(processes))
            several, data = check.prepared(f"several-{number}-{processes}-{stage}", model, inject, row)
            zero = ["--zero-stage", stage]
            done = check.run("train", several, "--data", data, "--epochs", 2, "--lr", 0.01, *each, *zero, "--threads", 1, processes=processes)
            said = done.stderr.count("training ")
            assert said == 1 and done.stdout.count("trained to step") == 1, f"{said} processes spoke:\n{done.stdout}{done.stderr}"
            compare(f"{what}, {processes} processes, ZeRO stage {stage}", one, several)
            assert "batch-size" in (several / "runs/001/config.yaml").read_text() and "# In " in (several / "runs/001/config.yaml").read_text()


def killed(check, rank, kind):
    """A process is ended from outside: all end, what was learnt is saved, and the run goes on."""
    bundle, data = check.prepared(f"killed-{rank}-{kind.name}", "llama/torchscript.onnx", [], tokens)
    command = [*check.launcher(2), check.binary, "train", str(bundle), "--data", str(data), "--max-steps", "200000", "--save-steps", "50",
               "--save-total-limit", "2", "--batch-size", "2", "--threads", "1", "--lr-scheduler", "constant"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = bundle / "runs/001/checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("step-*"))) > 0, 120)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    ranks = {environment(child).get("OMPI_COMM_WORLD_RANK"): int(child) for child in children}
    began = time.time()
    os.kill(ranks[str(rank)], kind)
    out, err = process.communicate(timeout=60)
    took = time.time() - began
    assert process.returncode != 0, "a run that was ended says so"
    saved = sorted(int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-*"))
    taken = steps(bundle)[-1]["step"]
    print(f"process {rank} ended by {kind.name}: all ended after {took:.1f} s with {process.returncode}; step {taken} was the last, saved {saved}")
    resumed = check.run("train", bundle, "--data", data, "--max-steps", saved[-1] + 5, "--resume", "--batch-size", 2, "--threads", 1,
                        "--lr-scheduler", "constant", "-q", processes=3)
    assert resumed.returncode == 0
    numbers = [row["step"] for row in steps(bundle)]
    assert numbers == list(range(1, saved[-1] + 6)), "each step once"
    return saved[-1], taken


def environment(pid):
    parts = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(part.decode(errors="replace").split("=", 1) for part in parts if b"=" in part)


def wait_for(condition, seconds):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened"
        time.sleep(0.05)


def wrong(check):
    """A row that cannot be read is said once, by one process."""
    bundle, data = check.prepared("wrong", "llama/torchscript.onnx", [], tokens)
    data.write_text(data.read_text() + '{"input_ids": [1, 999999]}\n')
    done = check.run("train", bundle, "--data", data, processes=3, expect=1)
    assert done.stderr.count("error: ") == 1 and "line 12" in done.stderr, done.stderr
    print("a row that is wrong:", done.stderr.splitlines()[0])
    assert not (bundle / ".lock").exists()


def elsewhere(check):
    """Commands that are not for several processes say so."""
    bundle, data = check.prepared("elsewhere", "llama/torchscript.onnx", [], tokens)
    done = check.run("merge", bundle, "-o", check.folder / "merged.onnx", processes=2, expect=1)
    assert "in 2 processes" in done.stderr, done.stderr
    print("merge in 2 processes:", next(line for line in done.stderr.splitlines() if line.startswith("error: ")))


def scaling(check, model):
    """Seconds a step with a thread for each process: the same rows a step, and the same rows a process."""
    data = check.folder / "scaling.jsonl"
    data.write_text("".join(json.dumps({"input_ids": [(at * 7 + place * 3) % 900 + 5 for place in range(128)],
                                        "labels": [(at * 7 + place * 3) % 900 + 5 for place in range(128)]}) + "\n" for at in range(64)))
    bundle = check.folder / "scaling"
    check.run("inject", model, "--method", "lora", "-q", "-o", bundle)
    times = {}
    for name, processes, rows in [("one process, 8 rows", 1, 8), ("two processes, 4 rows each", 2, 4), ("two processes, 8 rows each", 2, 8)]:
        run = f"in{processes}of{rows}"
        check.run("train", bundle, "--data", data, "--max-steps", 6, "--batch-size", rows, "--threads", 1, "--restart", "--run", run, "-q",
                  processes=processes)
        times[name] = sorted(row["seconds"] for row in steps(bundle, run)[1:])[2]
        print(f"{name}: {times[name]:.3f} s a step")
    one, strong, weak = times.values()
    print(f"strong scaling {one / strong / 2:.2f}, weak scaling {one / weak:.2f} of what two processes could at best")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--model", help="an exported causal language model, for times")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(arguments.binary, folder)
        equality(check)
        wrong(check)
        elsewhere(check)
        for rank, kind in [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGTERM)]:
            saved, taken = killed(check, rank, kind)
            if rank != 0:
                # The one that leads is told by the launcher, and saves.
                assert saved >= taken - 1, f"step {taken} was taken and {saved} saved"
        if arguments.model:
            scaling(check, arguments.model)
    print("all is well")


main()
