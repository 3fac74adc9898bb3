#!/usr/bin/env python3
"""Opens the folders that `finetune` and `merge --layout` write with the programs that they are for.

    python scripts/checks/check_layouts.py PEFT_ONNX --encoder FOLDER [--decoder FOLDER] [--node-modules FOLDER]

The classes have names as people write them, with spaces, an ampersand and umlauts.

FOLDER is what `optimum-cli export onnx` wrote: of an encoder (with modules.json of sentence-transformers to check that too), and of a decoder with its
cache. Needs optimum[onnxruntime] and sentence-transformers; onnxruntime-genai, fastembed and tensorboard are used where they are installed, transformers.js
where --node-modules has @huggingface/transformers, and a Chromium (CHROMIUM=..) where it has playwright-core. What is not there is said, and is no failure.
"""
import argparse
import functools
import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).parent
MONEY, BUG, PRAISE = CLASSES = ["Rechnung & Zahlung", "Störung melden", "Lob für das Team"]
TICKETS = [
    ("the invoice amount is wrong", MONEY), ("I was charged twice", MONEY), ("please refund my payment", MONEY),
    ("the app crashes on start", BUG), ("I get an error message", BUG), ("the page is blank", BUG),
    ("I love the new design", PRAISE), ("great work, thank you", PRAISE), ("this is the best tool", PRAISE),
]
TAILS = ["today", "again", "since Monday", "in the office", "on my phone", "for my team"]
TEXTS = ["how to bake a cake", "a recipe for cake", "the moon is far"]
ASKED = {"I was charged twice today": MONEY, "the app crashes again": BUG, "great work, thank you": PRAISE}


def peft_onnx(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"peft-onnx {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def said(what, is_fine, detail=""):
    print(f"{'works' if is_fine else 'FAILS'}  {what}{': ' + detail if detail else ''}", flush=True)
    FAILED.append(what) if not is_fine else None


def has(package):
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"absent {package} is not installed", flush=True)
    return found


def pages(work, modules, task, folder, texts):
    """What transformers.js answers in node and in a browser's page, by where it did; what went wrong, as a text."""
    if not modules:
        print("absent --node-modules is not given", flush=True)
        return {}
    link = work / "node_modules"
    if not link.exists():
        link.symlink_to(pathlib.Path(modules).resolve())
    places = {"node": "layouts.mjs"}
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium and (link / "playwright-core").is_dir():
        places["Chromium"] = "layouts_page.mjs"
    else:
        print("absent a Chromium, or playwright-core in --node-modules", flush=True)
    found = {}
    for place, script in places.items():
        shutil.copy(HERE / script, work)
        command = ["node", work / script, task, work, folder, json.dumps(texts)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=os.environ | {"CHROMIUM": chromium or ""})
        found[place] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-800:]
    return found


def classifier(work, encoder, modules):
    data = work / "tickets.csv"
    data.write_text("Ticket Body,Category\n" + "".join(f"\"{text} {tail}\",{label}\n" for tail in TAILS for text, label in TICKETS))
    told = json.loads(peft_onnx("finetune", encoder, "--data", data, "-o", work / "tuned", "--max-steps", 60, "--report-to", "tensorboard", "--json"))
    said("finetune names the classes of the table", sorted(told["class_names"]) == sorted(CLASSES), str(told["class_names"]))
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model = ORTModelForSequenceClassification.from_pretrained(work / "tuned")
    answers = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(work / "tuned"))(list(ASKED))
    said("optimum's pipeline answers in the table's words", [answer["label"] for answer in answers] == list(ASKED.values()), str(answers))
    peft_onnx("merge", told["bundle"], "-o", work / "site", "--layout", "transformers.js")
    for place, answers in pages(work, modules, "text-classification", "site", list(ASKED)).items():
        is_fine = isinstance(answers, list) and [answer["label"] for answer in answers] == list(ASKED.values())
        said(f"transformers.js in {place} answers in the table's words", is_fine, str(answers))
    readme(work, modules)
    if has("tensorboard"):
        tensorboard(pathlib.Path(told["bundle"]) / "runs" / told["run"])


def readme(work, modules):
    """README's programs, as they stand, give a class of the table."""
    text = (HERE.parents[1] / "README.md").read_text()
    own = {"python": ([sys.executable], "py", "ORTModelForSequenceClassification"), "js": (["node"], "mjs", "@huggingface/transformers")}
    for language, (command, ending, word) in own.items():
        if language == "js" and not modules:
            continue
        program = next(block for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M) if word in block)
        (work / f"readme.{ending}").write_text(program)
        done = subprocess.run([*command, f"readme.{ending}"], cwd=work, capture_output=True, text=True)
        said(f"README's program in {language} answers in the table's words", MONEY in done.stdout, (done.stdout or done.stderr)[-300:].strip())
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not modules or not chromium or not (work / "node_modules/playwright-core").is_dir():
        return
    (work / "page.html").write_text(next(iter(re.findall(r"^```html\n(.*?)^```", text, re.S | re.M))))
    shutil.copy(HERE / "page_output.mjs", work)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=work)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["node", "page_output.mjs", f"http://127.0.0.1:{server.server_port}/page.html"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=os.environ | {"CHROMIUM": chromium})
        server.shutdown()
    said("README's page in Chromium answers in the table's words", MONEY in done.stdout, (done.stdout or done.stderr)[-300:].strip())


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "split" not in line]
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    is_same = len(found) == len(steps) and all(abs(value - line["loss"]) < 1e-6 and step == line["step"] for (step, value), line in zip(found, steps))
    said("TensorBoard reads the losses of metrics.jsonl", is_same, f"{len(found)} steps, tags {', '.join(events.Tags()['scalars'])}")


def vectors(work, encoder, modules):
    if not (encoder / "modules.json").is_file():
        print("absent the encoder has no modules.json", flush=True)
        return
    data = work / "pairs.jsonl"
    data.write_text("".join(json.dumps({"anchor": f"how to bake cake {n}", "positive": f"a recipe for cake {n}"}) + "\n" for n in range(24)))
    told = json.loads(peft_onnx("finetune", encoder, "--data", data, "-o", work / "vectors", "--max-steps", 4, "--json"))
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(work / "vectors"), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"})
    found = model.encode(TEXTS)
    alike = found @ found.T
    said("sentence-transformers' ONNX backend tells what is alike", alike[0, 1] > alike[0, 2], f"{alike[0, 1]:.3f} > {alike[0, 2]:.3f}")
    peft_onnx("merge", told["bundle"], "-o", work / "vectors-js", "--layout", "transformers.js")
    is_near = lambda rows: isinstance(rows, list) and max(abs(a - b) for ours, theirs in zip(rows, found) for a, b in zip(ours, theirs)) < 1e-4
    for place, rows in pages(work, modules, "feature-extraction", "vectors-js", TEXTS).items():
        said(f"transformers.js in {place} gives the vectors of sentence-transformers", is_near(rows), "" if is_near(rows) else str(rows)[:300])
    if has("fastembed"):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        own = dict(model="own/vectors", pooling=PoolingType.MEAN, normalization=True, dim=found.shape[1], model_file="model.onnx")
        TextEmbedding.add_custom_model(sources=ModelSource(hf="own/vectors"), **own)
        rows = [row.tolist() for row in TextEmbedding("own/vectors", specific_model_path=str(work / "vectors")).embed(TEXTS)]
        said("fastembed gives the vectors of sentence-transformers", is_near(rows))


def decoder(work, decoder, modules):
    data = work / "chats.jsonl"
    chat = lambda n: {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "Quack!"}]}
    data.write_text("".join(json.dumps(chat(n)) + "\n" for n in range(24)))
    told = json.loads(peft_onnx("finetune", decoder, "--data", data, "-o", work / "duck", "--max-steps", 2, "--batch-size", 2, "--layout", "genai", "--json"))
    prompt = "Once upon a time"
    ours = json.loads(peft_onnx("generate", told["model"], "--prompt", prompt, "--max-new-tokens", 8, "--json"))[0]
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "duck")
    model = ORTModelForCausalLM.from_pretrained(work / "duck")
    ids = tokenizer(prompt, return_tensors="pt")
    tokens = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist()
    said("optimum writes what peft-onnx writes", tokens == ours["tokens"], f"{tokens} {ours['tokens']}")
    if has("onnxruntime_genai"):
        import onnxruntime_genai as genai

        model = genai.Model(str(work / "duck"))
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=ids["input_ids"].shape[1] + 8, do_sample=False)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(ids["input_ids"][0].tolist())
        tokens = []
        while not generator.is_done():
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        said("onnxruntime-genai writes what peft-onnx writes", tokens == ours["tokens"], f"{tokens} {ours['tokens']}")


def main():
    global BINARY, FAILED
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="PEFT_ONNX")
    parser.add_argument("--encoder", type=pathlib.Path, required=True)
    parser.add_argument("--decoder", type=pathlib.Path)
    parser.add_argument("--node-modules")
    arguments = parser.parse_args()
    BINARY, FAILED = str(pathlib.Path(arguments.binary).resolve()), []
    with tempfile.TemporaryDirectory() as work:
        classifier(pathlib.Path(work), arguments.encoder, arguments.node_modules)
        vectors(pathlib.Path(work), arguments.encoder, arguments.node_modules)
        if arguments.decoder:
            decoder(pathlib.Path(work), arguments.decoder, arguments.node_modules)
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
