#!/usr/bin/env python3
"""Runs what docs/tasks says: its rows as data, its commands, its Python, and its JavaScript where node is there.

    python scripts/checks/check_tasks_docs.py PEFT_ONNX MODELS [PAGE ..]

MODELS has a folder for each page (`seq-cls/`), in which `model/` is a model for that task with its tokenizer, and beside it what rows name (pictures, sounds): scripts/fixtures/make_page_models.py makes small ones.
Needs numpy, onnxruntime, tokenizers, pillow; torch for loss-graph. JavaScript runs if MODELS/node_modules has onnxruntime-node and @huggingface/transformers.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PAGES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "tasks"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def check(page, binary, given, work):
    if not (given / page.stem).is_dir():
        return f"its model: there is no {given / page.stem}"
    shutil.copytree(given / page.stem, work, dirs_exist_ok=True)
    if (given / "node_modules").is_dir():
        (work / "node_modules").symlink_to(given / "node_modules")
    (work / "run.py").write_text(blocks(PAGES / "README.md", "python")[0])
    (work / "run.mjs").write_text(blocks(PAGES / "README.md", "js")[0])
    for name in ("train.jsonl", "heldout.jsonl"):
        # Of what is written by a decoder, the rows are those of what is heard frame by frame.
        (work / name).write_text((blocks(page, "jsonl") or blocks(PAGES / "ctc.md", "jsonl"))[0])
    commands = [line.replace("peft-onnx", binary, 1) for line in "".join(blocks(page, "bash")).splitlines()]
    scripts = []
    for number, code in enumerate(blocks(page, "python") + blocks(page, "js")):
        if code.startswith("import") or code.startswith(("#", "from", "//")):
            is_python = code in blocks(page, "python")
            name = f"part{number}.{'py' if is_python else 'mjs'}"
            (work / name).write_text(code)
            if is_python or (work / "node_modules").exists():
                scripts.append(f"{sys.executable if is_python else 'node'} {name}")
    # A loss is written before it is injected.
    makes_loss = page.stem == "loss-graph"
    for command in (scripts + commands if makes_loss else commands + scripts):
        done = subprocess.run(command, shell=True, cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            return f"{command}\n{done.stdout[-800:]}{done.stderr[-1200:]}"
    return None


def main():
    binary, given = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    pages = [page for page in sorted(PAGES.glob("*.md")) if page.stem != "README" and (not sys.argv[3:] or page.stem in sys.argv[3:])]
    failed = 0
    for page in pages:
        with tempfile.TemporaryDirectory() as work:
            wrong = check(page, binary, given, pathlib.Path(work))
        print(f"{page.name}: {'fails at ' + wrong if wrong else 'works'}", flush=True)
        failed += wrong is not None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
