"""Times training with peft-onnx and with Hugging Face PEFT + PyTorch, turn by turn in one run, and writes tables to docs/BENCHMARKS.md and a picture beside it.

    python scripts/bench/bench.py --onnx MODEL.onnx --hf FOLDER [--encoder-onnx MODEL.onnx --encoder-hf FOLDER] [--only TEXT] [--list]
                                  [--rounds 3] [--steps 6] [--threads 2] [--compile] [--roofline TEXT] [--picture docs/pictures/bench.svg]

Needs an environment with torch, transformers, peft, onnx and onnxruntime (scripts/reference-requirements.txt), the same models as ONNX and as Hugging Face
folders, and the release binary (cargo build --release). Both sides train the same adapter with AdamW in float32 on the same rows; PyTorch runs eagerly with
its own default attention (SDPA), and compiled as well with --compile. Rows are random tokens: what a step costs does not depend on which. --only runs the rows
whose name contains a text; a row that cannot run here says why. Of the rows that --roofline names, scripts/bench/roofline.py tells what share of the
machine's own peak a step reaches and where the rest goes. Private memory is the largest RssAnon, mapped the largest RssFile (/proc/PID/status).
"""
import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages
from bench_picture import picture

ROOT = pathlib.Path(__file__).resolve().parents[2]
LORA = ["--method", "lora", "--rank", "8", "--alpha", "16"]
ALL = {"kind": "lora", "targets": "all-linear"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What is trained, and on what."""

    name: str
    inject: list
    # What PEFT is asked for; a text says why it is not there.
    peft: dict | str
    work: str = "dense"
    batch: int = 2
    length: int = 128
    train: list = dataclasses.field(default_factory=list)
    model: str = "decoder"
    quantised: bool = False


ROWS = [
    Row("LoRA q, v", [*LORA, "--target-modules", "q_proj,v_proj"], {"kind": "lora", "targets": ["q_proj", "v_proj"]}),
    Row("LoRA all linear", LORA, ALL),
    Row("LoRA all linear, completions", LORA, ALL, "completion"),
    Row("LoRA all linear, mixed lengths, grouped", LORA, ALL, "mixed", 4, 512, ["--group-by-length"]),
    Row("LoRA all linear, a layer recomputed", [*LORA, "--recompute", "layer"], ALL),
    Row("LoRA q, v, 1 x 2048", [*LORA, "--target-modules", "q_proj,v_proj"], {"kind": "lora", "targets": ["q_proj", "v_proj"]}, "dense", 1, 2048),
    Row("LoRA q, v, 1 x 2048, attention recomputed", [*LORA, "--target-modules", "q_proj,v_proj", "--recompute", "attention"],
        {"kind": "lora", "targets": ["q_proj", "v_proj"]}, "dense", 1, 2048),
    Row("LoRA q, v, 1 x 4096, attention recomputed", [*LORA, "--target-modules", "q_proj,v_proj", "--recompute", "attention"],
        {"kind": "lora", "targets": ["q_proj", "v_proj"]}, "dense", 1, 4096),
    Row("DoRA all linear", [*LORA, "--use-dora"], {**ALL, "dora": True}),
    Row("prefix tuning, 20 tokens", ["--method", "prefix_tuning", "--num-virtual-tokens", "20"], {"kind": "prefix"}),
    Row("prompt tuning, 20 tokens", ["--method", "prompt_tuning", "--num-virtual-tokens", "20"], {"kind": "prompt"}),
    Row("LoRA q, v, weights of 4 bits", [*LORA, "--target-modules", "q_proj,v_proj"], "PEFT's 4 bits (bitsandbytes) need a GPU", quantised=True),
    Row("MiniLM, classes, 16 x 128", [*LORA, "--target-modules", "query,value", "--num-labels", "2"],
        {"kind": "lora", "targets": ["query", "value"]}, "classes", 16, 128, [], "encoder"),
]
# Others that train ONNX models, and the module that a row would import.
OTHERS = [("onnxruntime-training 1.19.2", "onnxruntime.training.api"), ("onnxsim's trainer", "onnxsim.train")]


def data_of(row, count, vocabulary):
    """Rows of a kind of work, the same for both sides."""
    random.seed(0)
    for number in range(count):
        length = {"completion": random.randint(40, 128), "mixed": random.randint(16, row.length)}.get(row.work, row.length)
        ids = [random.randrange(10, vocabulary) for _ in range(length)]
        made = {"input_ids": ids, "attention_mask": [1] * length}
        if row.work == "classes":
            yield {**made, "token_type_ids": [0] * length, "label": number % 2}
        else:
            masked = 0 if row.work == "dense" else int(length * 0.7)
            yield {**made, "labels": [-100] * masked + ids[masked:]}


def adapted(wish, folder, task):
    """The model in PyTorch with PEFT's adapter."""
    import peft
    import transformers

    if task == "classes":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32", num_labels=2)
        kind = peft.TaskType.SEQ_CLS
    else:
        model, kind = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), peft.TaskType.CAUSAL_LM
    config = {
        "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=wish["targets"], use_dora=wish.get("dora", False), task_type=kind),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=20, task_type=kind),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=20, task_type=kind),
    }[wish["kind"]]()
    return peft.get_peft_model(model, config)


def worker(opt):
    """The PyTorch side, in a process of its own: prints the seconds of each step, and how many tokens it had."""
    import torch

    row = next(row for row in ROWS if row.name == opt.worker)
    torch.set_num_threads(opt.threads)
    torch.manual_seed(0)
    model = adapted(row.peft, opt.hf, row.work)
    model.train()
    step_of = torch.compile(model) if opt.compile else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    data = [json.loads(line) for line in open(opt.data)]
    if "--group-by-length" in row.train:
        from transformers.trainer_pt_utils import LengthGroupedSampler

        data = [data[at] for at in LengthGroupedSampler(row.batch, lengths=[len(one["input_ids"]) for one in data])]
    seconds, tokens = [], []
    for step in range(opt.steps):
        start = time.perf_counter()
        batch = [data[(step * row.batch + at) % len(data)] for at in range(row.batch)]
        longest = max(len(one["input_ids"]) for one in batch)
        pad = lambda key, value: torch.tensor([one[key] + [value] * (longest - len(one[key])) for one in batch])
        labels = torch.tensor([one["label"] for one in batch]) if row.work == "classes" else pad("labels", -100)
        out = step_of(input_ids=pad("input_ids", 0), attention_mask=pad("attention_mask", 0), labels=labels)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        out.loss.item()
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(one["input_ids"]) for one in batch))
        ended = ended if step else time.time()
    print(json.dumps({"seconds": seconds, "tokens": tokens, "first": ended}))


def memory(pid):
    """What a process has for itself and what of files it has mapped, in MB (Linux)."""
    try:
        fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        return [int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")]
    except (OSError, KeyError):
        return [0.0, 0.0]


def measured(command, **kwargs):
    """Runs a process: its output, wall seconds, peak memory in MB, the peak of its private memory, looked at every few milliseconds, and
    when it was started."""
    text, wall, peak, (own, _), started = run(command, **kwargs)
    return text, wall, peak, own, started


def run(command, **kwargs):
    """As `measured`, with the peaks of private and of mapped memory."""
    start, started = time.perf_counter(), time.time()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, **kwargs)
        most = [0.0, 0.0]
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            most = [max(pair) for pair in zip(most, memory(process.pid))]
            time.sleep(0.005)
        wall = time.perf_counter() - start
        out.seek(0), err.seek(0)
        if status != 0:
            raise RuntimeError(f"{command[0]} failed:\n{err.read()[-2000:]}")
        return out.read(), wall, usage.ru_maxrss / 1024, most, started


def ours(opt, row, bundle, data, steps):
    _, _, _, most, started = run([opt.binary, "train", bundle, "--data", data, "--batch-size", row.batch, "--max-steps", steps, "--learning-rate", "1e-4", "--weight-decay",
                                  "0.01", "--lr-scheduler", "constant", "--max-grad-norm", "1.0", "--max-length", row.length, "--threads", opt.threads, "--quiet", "--restart",
                                  *([] if "--group-by-length" in row.train else ["--no-shuffle"]), *row.train])
    lines = [line for line in map(json.loads, open(bundle / "metrics.jsonl")) if "loss" in line]
    # The file of metrics was last written at the end of the last step; only runs of one step are asked for that time.
    return dict(first=(bundle / "metrics.jsonl").stat().st_mtime - started, memory=most, seconds=[line["seconds"] for line in lines])


def theirs(opt, row, hf, data, steps, compiled=False):
    text, _, _, most, started = run([sys.executable, __file__, "--worker", row.name, "--hf", hf, "--data", data, "--steps", steps, "--threads", opt.threads,
                                     *(["--compile"] if compiled else [])])
    seen = json.loads(text.strip().splitlines()[-1])
    return dict(first=seen["first"] - started, memory=most, seconds=seen["seconds"])


def per_step(one):
    """Seconds of a step; the first warms caches up on both sides."""
    return sum(one["seconds"][1:]) / max(len(one["seconds"]) - 1, 1)


def quantised(model, folder):
    """The model with weights of 4 bits in blocks of 32."""
    import logging

    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.disable(logging.INFO)

    made = MatMulNBitsQuantizer(onnx.load(model), block_size=32, is_symmetric=True)
    made.process()
    (folder / "model4").mkdir(exist_ok=True)
    made.model.save_model_to_file(str(folder / "model4/model.onnx"), False)
    return folder / "model4/model.onnx"


def compare(opt, row, work):
    """A row of the table: both sides turn by turn."""
    onnx, hf = (opt.onnx, opt.hf) if row.model == "decoder" else (opt.encoder_onnx, opt.encoder_hf)
    if onnx is None:
        return {"row": row, "why": "no model was given"}
    if row.quantised:
        onnx = quantised(onnx, work)
    vocabulary = json.load(open(pathlib.Path(hf) / "config.json"))["vocab_size"]
    data, bundle = work / "rows.jsonl", work / "bundle"
    texts = [json.dumps(one) for one in data_of(row, opt.steps * row.batch, vocabulary)]
    data.write_text("".join(text + "\n" for text in texts))
    task = ["--task", "seq-cls" if row.work == "classes" else "causal-lm"]
    run([opt.binary, "inject", onnx, *row.inject, *task, "-o", bundle, "--force"])
    sides = {"ours": lambda: ours(opt, row, bundle, data, opt.steps)}
    if isinstance(row.peft, dict):
        sides["eager"] = lambda: theirs(opt, row, hf, data, opt.steps)
    if isinstance(row.peft, dict) and opt.compile:
        sides["compiled"] = lambda: theirs(opt, row, hf, data, opt.steps, True)
    seen = {side: [] for side in sides}
    why = None if isinstance(row.peft, dict) else row.peft
    for number in range(opt.rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for side in order:
            try:
                seen[side].append(sides[side]())
            except RuntimeError as error:
                why = f"{side} failed: {str(error).strip().splitlines()[-1][:120]}"
                sides.pop(side), seen.pop(side)
    tokens = sum(len(json.loads(text)["input_ids"]) for text in texts) / opt.steps
    found = {"row": row, "why": why, "tokens": tokens, "seen": seen}
    asked = row in ROWS[:2] if opt.roofline is None else opt.roofline in row.name
    if asked and row.work in ("dense", "classes"):
        found["roofline"] = roofline(opt, bundle, pathlib.Path(onnx).parent, row)
    return found


def roofline(opt, bundle, base, row):
    found = subprocess.run([sys.executable, ROOT / "scripts/bench/roofline.py", bundle, base, "--batch", str(row.batch), "--length", str(row.length), "--threads",
                            str(opt.threads), "--json"], capture_output=True, text=True)
    return json.loads(found.stdout) if found.returncode == 0 else {"why": found.stderr.strip().splitlines()[-1][:120]}


def median(runs, what):
    return statistics.median(what(one) for one in runs)


def lines_of(found):
    """A row of the table of training."""
    row, seen = found["row"], found.get("seen", {})
    if "ours" not in seen:
        return f"| {row.name} | not run: {found['why']} | | | | | | |"
    mine = median(seen["ours"], per_step)
    spread = [per_step(one) for one in seen["ours"]]
    private, mapped = (median(seen["ours"], lambda one, at=at: one["memory"][at]) for at in (0, 1))
    cells = [row.name, f"{mine:.2f} ({min(spread):.2f} to {max(spread):.2f})", f"{found['tokens'] / mine:.0f}", f"{private:.0f} + {mapped:.0f}"]
    if "eager" in seen:
        yours, taken = median(seen["eager"], per_step), median(seen["eager"], lambda one: sum(one["memory"]))
        cells += [f"{yours:.2f}", f"{mine / yours:.2f}", f"{taken:.0f}", f"{(private + mapped) / taken:.2f}"]
    else:
        cells += [found["why"] or "", "", "", ""]
    if "compiled" in seen:
        cells[4] += f", compiled {median(seen['compiled'], per_step):.2f}"
    return "| " + " | ".join(cells) + " |"


def rooflines(all_found):
    """The table of shares of the peak, for the rows that have one."""
    rows = [(found["row"], found["roofline"]) for found in all_found if "seconds" in found.get("roofline", {})]
    if not rows:
        return []
    kinds = list(rows[0][1]["seconds"])
    lines = ["", "What a step's products must compute, at which share of the peak of a matrix product that was measured in the same process, and where its time goes.", "",
             "| | GFLOP a step | peak, GFLOP/s | share of the peak | " + " | ".join(kinds) + " |", "|" + "---|" * (4 + len(kinds))]
    for row, seen in rows:
        whole = sum(seen["seconds"].values())
        shares = " | ".join(f"{seconds / whole:.0%}" for seconds in seen["seconds"].values())
        lines.append(f"| {row.name} | {seen['operations'] / 1e9:.0f} | {seen['peak'] / 1e9:.0f} | {seen['operations'] / seen['peak'] / seen['step']:.2f} | {shares} |")
    return lines


def start_up(opt, work):
    """Seconds of inject, its memory, and seconds to the end of the first step, on both sides."""
    row = ROWS[1]
    vocabulary = json.load(open(pathlib.Path(opt.hf) / "config.json"))["vocab_size"]
    data, bundle = work / "rows.jsonl", work / "bundle"
    data.write_text("".join(json.dumps(one) + "\n" for one in data_of(row, row.batch, vocabulary)))
    injected = [run([opt.binary, "inject", opt.onnx, *row.inject, "--task", "causal-lm", "-o", bundle, "--force"]) for _ in range(3)]
    firsts = [(ours(opt, row, bundle, data, 1)["first"], theirs(opt, row, opt.hf, data, 1)["first"]) for _ in range(opt.rounds)]
    mine, yours = (statistics.median(side) for side in zip(*firsts))
    return ["", "| | peft-onnx | PEFT + PyTorch | ratio |", "|---|---|---|---|",
            f"| `inject`, seconds | {median(injected, lambda one: one[1]):.2f} | | |",
            f"| `inject`, peak private memory, MB | {median(injected, lambda one: one[3][0]):.0f} | | |",
            f"| start of the program to the end of step 1, seconds | {mine:.2f} | {yours:.2f} | {mine / yours:.2f} |"]


def has(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--onnx"), p.add_argument("--hf"), p.add_argument("--encoder-onnx"), p.add_argument("--encoder-hf")
    p.add_argument("--binary", default=ROOT / "target/release/peft-onnx")
    p.add_argument("--rounds", type=int, default=3), p.add_argument("--steps", type=int, default=6), p.add_argument("--threads", type=int, default=2)
    p.add_argument("--only", default=""), p.add_argument("--list", action="store_true"), p.add_argument("--compile", action="store_true")
    p.add_argument("--roofline", help="rows with this in their name get a line; - for none [default: the first two]")
    p.add_argument("--out", default=ROOT / "docs/BENCHMARKS.md", type=pathlib.Path)
    p.add_argument("--picture", default=ROOT / "docs/pictures/bench.svg", type=pathlib.Path)
    p.add_argument("--worker", help=argparse.SUPPRESS), p.add_argument("--data", help=argparse.SUPPRESS)
    opt = p.parse_args()
    if opt.worker:
        return worker(opt)
    if opt.list:
        return print("\n".join(row.name for row in ROWS))
    found = []
    # Where the model is: memory of another kind would not be mapped as its files are.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(opt.onnx))) as work:
        work = pathlib.Path(work)
        for row in (row for row in ROWS if opt.only in row.name):
            try:
                found.append(compare(opt, row, work))
            except (RuntimeError, ImportError) as error:
                found.append({"row": row, "why": str(error).strip().splitlines()[-1][:120]})
            print(lines_of(found[-1]), flush=True)
        start = [] if opt.only else start_up(opt, work)
    lines = [f"Machine: {pages.cpu()}, {opt.threads} threads. Medians of {opt.rounds} rounds of {opt.steps} steps, both sides turn by turn in one run, and the least and the "
             f"most of the rounds. Model: {pathlib.Path(opt.hf).name}; rows of {ROWS[0].batch} x {ROWS[0].length} tokens that all count, where nothing else is said.", "",
             "| | step, s | tokens/s | memory, MB: private + mapped | PEFT + PyTorch, s | ratio | its memory, MB | ratio |", "|---|---|---|---|---|---|---|---|",
             *map(lines_of, found), *[f"| {name} | not run: {'there is no row for it yet' if has(module) else f'{module} is not installed'} | | | | | | |" for name, module in OTHERS],
             *rooflines(found), *start]
    if opt.picture.parent.is_dir() and picture(found, per_step, opt.picture):
        lines += ["", f"![Seconds of a step]({os.path.relpath(opt.picture, opt.out.parent)})"]
    text = "\n".join(lines) + "\n"
    print(text)
    pages.put(opt.out, "bench.py", "## Training\n\nMade by `scripts/bench/bench.py`, which says what is measured and how to run it.\n\n" + text, "# Benchmarks\n")


if __name__ == "__main__":
    main()
