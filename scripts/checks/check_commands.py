#!/usr/bin/env python3
"""Runs the commands and programs of README.md and of the pages of docs that no other script runs, with small models in the place of those that they name.

    python scripts/checks/check_commands.py [--program PROGRAM] [PAGE ..]

Recipes are run by check_recipes.py, pages of tasks by check_tasks_docs.py, README's pipelines by check_layouts.py, python/README.md by check_python.sh, web/README.md by check_web.sh, `mpirun` by
check_mpi.sh, scripts by continuous integration. Commands of these are passed over, and said. PROGRAM is by default target/debug/peft-onnx. Needs bash and a Python with numpy, onnxruntime and tokenizers; the package openai for the page of serving.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import check_recipes
from check_recipes import ROOT

FIXTURES = ROOT / "models/fixtures"
PAGES = ["README.md", "docs/DATA.md", "docs/SERVING.md", "docs/PARALLEL.md", *(f"docs/methods/{page.name}" for page in sorted((ROOT / "docs/methods").glob("*.md")))]
ELSEWHERE = {"cargo": "continuous integration", "scripts/": "continuous integration", "optimum-cli": "what a user has", "pip install": "what a user has", "peft-onnx runtime install": "tests/it/runtime_install.rs",
             "mpirun": "check_mpi.sh"}
# What `model.onnx` is on a page; elsewhere the small language model.
MODELS = {"head.md": FIXTURES / "bert_classifier/dynamo.onnx", "DATA.md": FIXTURES / "bert_encoder/dynamo.onnx"}
# Numbers that go with larger models and longer runs.
SMALLER = {"32000,32001": "32,33", "step=1000": "step=20", "tinit=100": "tinit=4", "tfinal=300": "tfinal=6", "max-steps 1000": "max-steps 20", "--eval-steps 50": "--eval-steps 2",
           "--save-steps 100": "--save-steps 2", "--epochs 2": "--max-steps 4", "embed_tokens": "embed_tokens", "--batch-size 4 ": "--batch-size 2 "}
LABELLED = ["I was charged twice,billing", "the app closes,bug", "could you add a dark mode,wish"]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
PREFIX = """
import numpy as np
import onnxruntime
"""


def made(folder, page, program):
    """What a page names is there before its first command."""
    def run(*args):
        done = subprocess.run([program, *map(str, args), "-q"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{args}: {done.stderr}"

    tiny = ROOT / "models/tiny-lm"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        if page.name not in MODELS:
            shutil.copy(tiny / name, folder)
    shutil.copy(MODELS.get(page.name, tiny / "model.onnx"), folder / "model.onnx")
    words = json.dumps(check_recipes.words())
    if page.name in MODELS:
        (folder / "tokenizer.json").write_text(words)
    lines = (ROOT / "models/finetune/train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(lines[:12]))
    (folder / "heldout.jsonl").write_text("\n".join(lines[12:16]))
    (folder / "tickets.csv").write_text("Message,Kind\n" + "".join(f"{number} times {row}\n" for number in range(8) for row in LABELLED))
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"anchor": f"{a} {n}", "positive": f"{b} {n}"}) for n in range(3) for a, b in (("room cold", "kind staff"), ("app closes", "dark mode"))))
    if page.name == "hard-prompts.md":
        for name in ("model.onnx", "config.json", "tokenizer_config.json"):
            (folder / name).unlink()
        shutil.copy(FIXTURES / "bert_masked/dynamo.onnx", folder / "masked.onnx")
        special = ["great", "good", "awful", "bad"]
        known = check_recipes.words()
        known["model"]["vocab"] = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *special, "It", "was", "Just", "!", ".", "the", "film"])}
        known["added_tokens"] = [{"id": 4, "content": "[MASK]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
        (folder / "tokenizer.json").write_text(json.dumps(known))
        (folder / "words.json").write_text('{"positive": ["great", "good"], "negative": ["awful", "bad"]}')
        rows = "\n".join(json.dumps({"text": f"the film was {word}", "label": label}) for word, label in (("good", "positive"), ("bad", "negative")) for _ in range(4))
        (folder / "reviews.jsonl").write_text(rows)
        (folder / "heldout.jsonl").write_text(rows)
    if page.name in ("several-adapters.md", "SERVING.md", "adalora.md"):
        for seed, name in enumerate(("polite", "terse", "a", "b")):
            run("inject", "model.onnx", "--method", "lora", "--init-lora-weights", "random", "--seed", seed, "-o", f"{name}.lora")
        run("export", "a.lora", "--format", "peft", "-o", "adapters/a")
        (folder / "path/of/an/adalora").mkdir(parents=True)
        run("inject", "model.onnx", "--method", "adalora", "-o", "made")
        run("export", "made", "--format", "peft", "-o", "path/of/an/adalora/adapter")
    if page.name in ("SERVING.md", "README.md"):
        shutil.copytree(tiny, folder / "smollm2")
        settings = json.loads((tiny / "tokenizer_config.json").read_text())
        (folder / "smollm2/tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
        (folder / "minilm").mkdir()
        shutil.copy(FIXTURES / "bert_encoder/dynamo.onnx", folder / "minilm/model.onnx")
        (folder / "minilm/tokenizer.json").write_text(words)
    if page.name == "SERVING.md":
        run("inject", "smollm2", "--method", "lora", "-o", "smollm2.lora")
        run("merge", "smollm2.lora", "-o", "tuned/")


def commands(text):
    """The commands of a block; lines that end in a backslash go on, and comments are none."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [re.sub(r"\s+# .*$", "", line).rstrip() for line in lines]


def output(command):
    """What `inject` writes where nothing names it: the next command on a page is another way to do the same."""
    found = re.match(r"peft-onnx +inject +(\S+)(?!.* -o )", command)
    method = re.search(r"--method (\S+)", command)
    return found and f"{found[1].removesuffix('.onnx')}.{method[1] if method else '*'}"


def serving(command, folder, environment, programs):
    """Starts a server, and runs the page's programs against it."""
    server = subprocess.Popen(["bash", "-c", f"exec {command} --json"], cwd=folder, env=environment | {"KEY": "a key"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if line.startswith("}"):
                break
        if server.poll() is not None:
            return server.stderr.read()
        for program in programs if "smollm2.lora" in command else []:
            if importlib.util.find_spec("openai") is None:
                print("  passed over: the program, for want of the package openai", flush=True)
                continue
            done = subprocess.run([sys.executable, "-c", "import openai\n" + program], cwd=folder, capture_output=True, text=True, timeout=120)
            if done.returncode != 0:
                return done.stderr
    finally:
        server.terminate()
        server.wait(20)
    return None


def python(page, text, folder, environment):
    """Runs a program of a page, with what stands around it there."""
    if "onnxruntime.InferenceSession" not in text:
        return None
    if page.name == "README.md":
        for command in ("peft-onnx inject smollm2x --method lora -o again.lora -q", "peft-onnx export again.lora --format training -o loop -q"):
            subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
        before = "ids = np.arange(1, 9, dtype=np.int64)[None]\nbatches = [{'input_ids': ids, 'attention_mask': np.ones_like(ids), 'position_ids': ids - 1, 'labels': ids}] * 3\n"
        after = "assert np.isfinite(loss) and step == 3\nprint(loss)\n"
    else:
        before = ("ids = np.arange(1, 9, dtype=np.int64)[None]\nfeeds = {'input_ids': ids, 'attention_mask': np.ones_like(ids), 'position_ids': ids - 1}\n"
                  "probe = onnxruntime.InferenceSession('a.lora/inference.onnx')\n"
                  "feeds |= {one.name: np.zeros([1, one.shape[1], 0, one.shape[3]], np.float32) for one in probe.get_inputs() if one.name.startswith('past')}\n")
        after = "plain = session.run(['logits'], feeds)\nassert np.abs(plain[0] - logits[0]).max() > 0\nprint(logits[0].shape)\n"
    done = subprocess.run([sys.executable, "-c", PREFIX + before + text + after], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stderr if done.returncode != 0 else None


def run(page, folder, environment):
    """Runs a page; what went wrong."""
    wrong = []
    found = check_recipes.blocks(page)
    programs = [text for _, language, text in found if language == "python"]
    if page.name == "README.md":
        shutil.copytree(folder / "smollm2", folder / "smollm2x")
    for _, language, text in found:
        if language == "python" and (error := python(page, text, folder, environment)):
            wrong.append(f"{page.name}: a program: {error[-1500:]}")
        for command in commands(text) if language == "bash" else []:
            elsewhere = next((where for start, where in ELSEWHERE.items() if command.startswith(start)), None)
            if elsewhere:
                print(f"  passed over: {command} ({elsewhere})", flush=True)
                continue
            for usual, small in SMALLER.items():
                command = command.replace(usual, small)
            for old in filter(pathlib.Path.is_dir, folder.glob(output(command) or "nothing")):
                shutil.rmtree(old)
            started = time.monotonic()
            if command.startswith("peft-onnx serve"):
                error = serving(command, folder, environment, programs)
            else:
                done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
                error = done.stderr if done.returncode != 0 else None
            print(f"  {'FAILS' if error else 'works'}: {command} ({time.monotonic() - started:.1f} s)", flush=True)
            if error:
                wrong.append(f"{page.name}: {command}\n{error[-1500:]}")
    return wrong


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--program", type=pathlib.Path, default=ROOT / "target/debug/peft-onnx")
    options.add_argument("pages", nargs="*", default=PAGES)
    asked = options.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "bin").mkdir()
        (work / "bin/peft-onnx").symlink_to(asked.program.resolve())
        environment = os.environ | {"PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
        for name in asked.pages:
            page = ROOT / name
            print(name, flush=True)
            folder = work / name.replace("/", "-").removesuffix(".md")
            folder.mkdir()
            made(folder, page, asked.program.resolve())
            wrong += run(page, folder, environment)
    print("\n".join(wrong) if wrong else f"the commands of {len(asked.pages)} pages work as they stand.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
