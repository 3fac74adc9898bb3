"""Runs docs/recipes: writes the files that a page shows, runs its commands and its programs as they stand, in their order.

    python scripts/checks/check_recipes.py [--program PROGRAM] [PAGE ..]

The models that pages name are small ones: `smollm2` is models/tiny-lm, `minilm` an encoder of models/fixtures with a tokenizer of the words that the pages have, `colleague` an adapter in PEFT's form.
PROGRAM is by default target/debug/peft-onnx. Needs bash, curl, and a Python with numpy, onnxruntime, tokenizers and safetensors.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/recipes"
BLOCK = re.compile(r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.S | re.M)


def blocks(page):
    """What a page has between fences: the name of a file in front of it, the language, the text."""
    return [(found["file"], found["language"], found["text"]) for found in BLOCK.finditer(page.read_text())]


def words():
    """A tokenizer of the words that the pages have, at most as many as the encoder has rows."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = " ".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
    found = list(dict.fromkeys(re.findall(r"[A-Za-z]+", text)))
    vocabulary = {word: number for number, word in enumerate((special + found)[:64])}
    around = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    pair = around + [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    tokens = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": pair, "special_tokens": tokens},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }


def models(folder, program):
    """The models that the pages name."""
    shutil.copytree(ROOT / "models/tiny-lm", folder / "smollm2")
    (folder / "minilm").mkdir()
    shutil.copy(ROOT / "models/fixtures/bert_encoder/dynamo.onnx", folder / "minilm/model.onnx")
    (folder / "minilm/tokenizer.json").write_text(json.dumps(words()))
    described = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    (folder / "minilm/config.json").write_text(json.dumps(described))
    settings = ["--method", "lora", "--init-lora-weights", "random", "--alpha", "32", "-q"]
    subprocess.run([program, "inject", folder / "smollm2", *settings, "-o", folder / "made"], check=True)
    (folder / "colleague").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / "made" / name, folder / "colleague")
    shutil.rmtree(folder / "made")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def run(page, folder, environment):
    """Runs a page; what went wrong, or nothing. Another program may listen on the port that a page names."""
    port = free_port()
    for number, (file, language, text) in enumerate(blocks(page)):
        text = re.sub(r"(--port |127\.0\.0\.1:)\d+", rf"\g<1>{port}", text)
        if file:
            (folder / file).write_text(text)
        elif language in ("bash", "python"):
            script = folder / f"block{number}.{'sh' if language == 'bash' else 'py'}"
            script.write_text(("set -euo pipefail\nset -m\n" if language == "bash" else "") + text)
            command = ["bash", script] if language == "bash" else [sys.executable, script]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
            if done.returncode != 0:
                return f"block {number} ({language}) ended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"
            print(f"  {language}: {' | '.join(done.stdout.split(chr(10))[-3:])[:200]}", flush=True)
    return None


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--program", type=pathlib.Path, default=ROOT / "target/debug/peft-onnx")
    options.add_argument("pages", nargs="*")
    asked = options.parse_args()
    program = asked.program.resolve()
    pages = [page for page in sorted(PAGES.glob("*.md")) if page.stem != "README" and (not asked.pages or page.stem in asked.pages)]
    told = (PAGES / "README.md").read_text()
    failed = [f"{page.name} is not in README.md" for page in pages if f"({page.name})" not in told]
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "bin").mkdir()
        (work / "bin/peft-onnx").symlink_to(program)
        environment = os.environ | {"PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
        models(work, program)
        for page in pages:
            print(page.name, flush=True)
            folder = work / page.stem
            folder.mkdir()
            for name in ("smollm2", "minilm", "colleague"):
                shutil.copytree(work / name, folder / name)
            if wrong := run(page, folder, environment):
                failed.append(f"{page.name}: {wrong}")
    print("\n".join(failed) if failed else f"{len(pages)} recipes work as they stand.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
