"""Times LoRA training with peft-onnx and with Hugging Face PEFT + PyTorch, turn by turn in one run, and writes the table to docs/BENCHMARKS.md.

    python scripts/bench/bench.py --onnx MODEL.onnx --hf FOLDER [--rounds 3] [--steps 6] [--threads 2]

Needs an environment with torch, transformers and peft (scripts/reference-requirements.txt), the same model as ONNX and as a Hugging Face folder, and
the release binary (cargo build --release). Both sides train the same LoRA (rank 8, alpha 16, all linear layers) with AdamW in float32 on the same rows;
PyTorch runs eagerly with its own default attention (SDPA). Rows are random tokens: what a step costs does not depend on which.
"""
import argparse, json, os, pathlib, random, statistics, subprocess, sys, tempfile, time
import pathlib
import sys

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rows(kind, count, vocabulary):
    """Rows of the two workloads: 128 labelled tokens each; or lengths of 40 to 128 with the last 30 % labelled."""
    random.seed(0)
    for _ in range(count):
        length = 128 if kind == "dense" else random.randint(40, 128)
        ids = [random.randrange(10, vocabulary) for _ in range(length)]
        masked = 0 if kind == "dense" else int(length * 0.7)
        yield {"input_ids": ids, "attention_mask": [1] * length, "labels": [-100] * masked + ids[masked:]}


def worker(opt):
    """The PyTorch side, in a process of its own: prints the seconds of each step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(opt.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(opt.hf, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    data = [json.loads(line) for line in open(opt.data)]
    seconds, losses = [], []
    for step in range(opt.steps):
        start = time.perf_counter()
        batch = [data[(step * opt.batch + i) % len(data)] for i in range(opt.batch)]
        longest = max(len(row["input_ids"]) for row in batch)
        pad = lambda key, value: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in batch])
        out = model(input_ids=pad("input_ids", 0), attention_mask=pad("attention_mask", 0), labels=pad("labels", -100))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
        seconds.append(time.perf_counter() - start)
        ended = ended if step else time.time()
    print(json.dumps({"seconds": seconds, "losses": losses, "first": ended}))


def private(pid):
    """The memory that a process has for itself, in MB: without the pages of mapped files, which the system can drop (Linux)."""
    try:
        fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        return int(fields["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return 0.0


def measured(command, **kwargs):
    """Runs a process: its output, wall seconds, peak memory in MB, the peak of its private memory, looked at every few milliseconds, and
    when it was started."""
    start, started = time.perf_counter(), time.time()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, **kwargs)
        own = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            own = max(own, private(process.pid))
            time.sleep(0.005)
        wall = time.perf_counter() - start
        out.seek(0), err.seek(0)
        if status != 0:
            sys.exit(f"{command[0]} failed:\n{err.read()[-2000:]}")
        return out.read(), wall, usage.ru_maxrss / 1024, own, started


def ours(opt, work, data, steps):
    bundle = work / "bundle"
    text, _, memory, _, started = measured([opt.binary, "train", bundle, "--data", data, "--batch-size", opt.batch, "--max-steps", steps, "--learning-rate", "1e-4",
                                   "--weight-decay", "0.01", "--lr-scheduler", "constant", "--max-grad-norm", "1.0", "--no-shuffle", "--threads", opt.threads, "--quiet", "--restart"])
    lines = [json.loads(line) for line in open(bundle / "metrics.jsonl")]
    # The file of metrics was last written at the end of the last step; only runs of one step are asked for that time.
    first = (bundle / "metrics.jsonl").stat().st_mtime - started
    return dict(first=first, memory=memory, seconds=[line["seconds"] for line in lines if "loss" in line])


def theirs(opt, data, steps):
    text, _, memory, _, started = measured([sys.executable, __file__, "--worker", "--hf", opt.hf, "--data", data, "--steps", steps, "--batch", opt.batch, "--threads", opt.threads])
    seen = json.loads(text.strip().splitlines()[-1])
    return dict(first=seen["first"] - started, memory=memory, seconds=seen["seconds"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--onnx"), p.add_argument("--hf", required=True)
    p.add_argument("--binary", default=ROOT / "target/release/peft-onnx")
    p.add_argument("--rounds", type=int, default=3), p.add_argument("--steps", type=int, default=6)
    p.add_argument("--threads", type=int, default=2), p.add_argument("--batch", type=int, default=2)
    p.add_argument("--out", default=ROOT / "docs/BENCHMARKS.md")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS), p.add_argument("--data", help=argparse.SUPPRESS)
    opt = p.parse_args()
    if opt.worker:
        return worker(opt)
    table, vocabulary = [], json.load(open(pathlib.Path(opt.hf) / "config.json"))["vocab_size"]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(opt.onnx))) as work:
        work = pathlib.Path(work)
        inject = lambda: measured([opt.binary, "inject", opt.onnx, "--method", "lora", "--rank", "8", "--alpha", "16", "--task", "causal-lm", "-o", work / "bundle", "--force"])
        injected = [inject() for _ in range(3)]
        table.append(("`inject`, seconds", statistics.median(wall for _, wall, *_ in injected), None))
        table.append(("`inject`, peak memory with mapped files, MB", statistics.median(memory for _, _, memory, *_ in injected), None))
        table.append(("`inject`, peak private memory, MB", statistics.median(own for *_, own, _ in injected), None))
        for kind, name in (("dense", f"{opt.batch} x 128 tokens, all labelled"), ("mix", f"{opt.batch} rows of 40 to 128 tokens, 30 % labelled")):
            data = work / f"{kind}.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind, opt.steps * opt.batch, vocabulary)))
            a, b = [], []
            for _ in range(opt.rounds):
                a.append(ours(opt, work, data, opt.steps))
                b.append(theirs(opt, data, opt.steps))
            # The first step warms caches up on both sides; the sum over the others is what is compared, round by round.
            step = lambda runs: statistics.median(sum(run["seconds"][1:]) / (len(run["seconds"]) - 1) for run in runs)
            table.append((f"step, seconds ({name})", step(a), step(b)))
            table.append((f"peak memory, MB ({name})", *(statistics.median(run["memory"] for run in runs) for runs in (a, b))))
        one = [(ours(opt, work, data, 1)["first"], theirs(opt, data, 1)["first"]) for _ in range(opt.rounds)]
        table.append(("start of the program to the end of step 1, seconds", *(statistics.median(side) for side in zip(*one))))
    lines = [f"Machine: {pages.cpu()}, {opt.threads} threads. Medians of {opt.rounds} rounds of {opt.steps} steps, both sides turn by turn in one run. Model: {pathlib.Path(opt.hf).name}.", "",
             "| | peft-onnx | PEFT + PyTorch | ratio |", "|---|---|---|---|"]
    for name, x, y in table:
        digits = 0 if "MB" in name else 2
        lines.append(f"| {name} | {x:.{digits}f} | {'' if y is None else f'{y:.{digits}f}'} | {'' if y is None else f'{x / y:.2f}'} |")
    text = "\n".join(lines) + "\n"
    print(text)
    out = pathlib.Path(opt.out)
    pages.put(out, "bench.py", "## Training\n\nMade by `scripts/bench/bench.py`, which says what is measured and how to run it.\n\n" + text, "# Benchmarks\n")


if __name__ == "__main__":
    main()
