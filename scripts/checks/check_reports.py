"""Trains two small runs and reads what they leave: event files with the `tensorboard` package, reports in a headless Chromium.

    python scripts/checks/check_reports.py [--program PROGRAM] [--pictures FOLDER]

PROGRAM is by default target/debug/peft-onnx. Needs the package tensorboard; node, web/node_modules/playwright-core (npm ci --prefix web --ignore-scripts) and a Chromium (CHROMIUM=..).
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import tempfile

from check_recipes import ROOT, words
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CLASSES = ["negative", "neutral", "positive"]


def made(folder, program):
    """A bundle of a classifier with two runs of different learning rates."""
    (folder / "minilm").mkdir()
    shutil.copy(ROOT / "models/fixtures/bert_encoder/dynamo.onnx", folder / "minilm/model.onnx")
    (folder / "minilm/tokenizer.json").write_text(json.dumps(words()))
    rows = [{"text": f"The room was {word} {number}", "label": CLASSES[(number * 7 + len(word)) % 3]} for number, word in enumerate(["clean", "cold", "kind", "broken"] * 6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    def run(*args):
        done = subprocess.run([program, *map(str, args)], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{args}: {done.stderr}"

    run("inject", "minilm", "--task", "seq-cls", "--num-labels", 3, "--method", "lora", "-o", "bundle")
    for options in (["--learning-rate", "1e-3"], ["--learning-rate", "3e-3", "--restart"]):
        run("train", "bundle", "--data", "rows.jsonl", "--eval-data", "rows.jsonl", "--batch-size", 6, "--max-steps", 12, "--eval-steps", 4, "--report-to", "tensorboard", *options)
    run("runs", "bundle", "001", "002", "--html", "compared.html")
    return len(rows)


def events(run):
    """The scalars of a run's event files are those of its metrics.jsonl, step by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = sorted(run.rglob("events.out.tfevents.*"))
    assert files, f"{run} has no event files"
    read = EventAccumulator(str(files[0].parent), size_guidance={"scalars": 0})
    read.Reload()
    tags = read.Tags()["scalars"]
    compared = 0
    for tag in tags:
        name = tag.rsplit("/", 1)[-1]
        split = tag.split("/")[0]
        for event in read.Scalars(tag):
            found = [line for line in lines if line.get("step") == event.step and ("split" in line) == (split == "eval")]
            values = [value for line in found for key, value in flat(line).items() if key.rsplit("/", 1)[-1] == name]
            assert any(math.isclose(event.value, value, rel_tol=1e-5, abs_tol=1e-7) for value in values), (tag, event.step, event.value, found)
            compared += 1
    steps = [line["step"] for line in lines if "learning_rate" in line]
    assert any(len(read.Scalars(tag)) == len(steps) for tag in tags), (tags, steps)
    print(f"{run.name}: {compared} scalars of {len(tags)} curves are those of metrics.jsonl: {', '.join(tags)}")


def flat(line, before=""):
    """The numbers of an object, by their paths."""
    found = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[before + key] = value
    return found


def look(page, facts, work, picture):
    (work / "facts.json").write_text(json.dumps(facts))
    command = ["node", ROOT / "web/e2e/report.mjs", page, work / "facts.json", *([picture] if picture else [])]
    subprocess.run(list(map(str, command)), check=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--program", type=pathlib.Path, default=ROOT / "target/debug/peft-onnx")
    options.add_argument("--pictures", type=pathlib.Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        rows = made(work, asked.program.resolve())
        picture = lambda name: asked.pictures and asked.pictures / name
        for name in ("001", "002"):
            events(work / "bundle/runs" / name)
        facts = {"runs": ["001"], "classes": CLASSES, "rows": rows, "charts": ["loss"], "options": ["learning-rate"], "samples": 4}
        look(work / "bundle/runs/001/report.html", facts, work, picture("report.png"))
        look(work / "compared.html", {"runs": ["001", "002"], "charts": ["loss"], "options": ["learning-rate"], "differs": ["learning-rate"]}, work, picture("compared.png"))
    print("Reports and event files are right.")


if __name__ == "__main__":
    main()
