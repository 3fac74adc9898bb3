"""Exports every architecture of architectures.py with every exporter, trains adapters on each file beside Hugging Face PEFT, and writes docs/ARCHITECTURES.md.

    python scripts/checks/check_architectures.py [--binary target/release/peft-onnx] [--only WORDS] [--exporter WORDS] [--method WORDS] [--jobs 2] [--page]

A cell of the table is one file. The checks in it: the same losses, trained tensors and merged logits as PEFT and PyTorch for each of METHODS, and the names that PEFT has
for `all-linear`. Exports and PEFT's runs are kept in --work and used again; what is wrong with them is kept too. Each architecture, export and reference runs in a process
of its own with a limit of time. Exits with 1 where something is other than as PEFT does it. Needs scripts/reference-requirements.txt.
"""
import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import families

torch = families.prepare()
import architectures  # noqa: E402
import exports  # noqa: E402
import follow  # noqa: E402
import reference  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

PAGE = families.ROOT / "docs/ARCHITECTURES.md"
FORK = multiprocessing.get_context("fork")
EXPORT_SECONDS, REFERENCE_SECONDS, ARCHITECTURE_SECONDS = 300, 120, 3600
LARGEST_DIFFERENCE = 1e-4  # of an export from PyTorch, of the largest logit
NAMES = "names"


def methods(row):
    """PEFT's settings of each method that is compared, as reference.py takes them."""
    saved = dict(modules_to_save=["classifier"]) if row.task == "IMAGE_CLS" else {}  # PEFT saves classifiers of texts by itself
    prompt = dict(num_virtual_tokens=4, **row.widths)
    prefix = dict(method="PrefixTuningConfig", **prompt | row.prefix)
    return {
        "lora_qv": dict(target_modules=list(row.targets), **saved),
        "lora_all": dict(target_modules="all-linear", training=dict(learning_rate=5e-3), **saved),
        "prompt_tuning": dict(method="PromptTuningConfig", **prompt),
        "prefix_tuning": dict(prefix_projection=True, encoder_hidden_size=12, **prefix),
        "p_tuning_v2": prefix,
    }


def limited(log, seconds, function, *arguments):
    """Runs a function in a process of its own, its output in a file: what is wrong, in words; empty where nothing is."""
    ours, theirs = FORK.Pipe(duplex=False)

    def inside():
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                function(*arguments)
                theirs.send("")
            except Exception as why:
                theirs.send(words(why))

    process = FORK.Process(target=inside)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else f"took more than {seconds} s"
    except EOFError:
        return "its process died"
    finally:
        process.kill()
        process.join()


def words(why):
    """An error in one line, without paths of this machine."""
    text = re.sub(r"https?://\S+", "", " ".join(str(why).split()))
    text = re.sub(r"(/[\w.+-]+)+/([\w.+-]+)", r"\2", re.sub(r"\x1b\[\d*m", "", text))
    return (text if text and isinstance(why, (AssertionError, follow.Refused)) else f"{type(why).__name__}: {text}".removesuffix(": "))[:260]


class Architecture:
    """One row of the table, with its folder."""

    def __init__(self, name, work):
        self.name, self.row, self.folder = name, ARCHITECTURES[name], work / name
        self.load = functools.partial(architectures.load, name, self.folder / "hf")

    def kept(self, what, seconds, function, *arguments):
        """Does something that leaves files unless it was done before: what was wrong then."""
        told = self.folder / f"{what}.told"
        if not told.exists():
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text(limited(self.folder / "log.txt", seconds, function, *arguments))
        return told.read_text()

    def build(self):
        return self.kept("hf", REFERENCE_SECONDS, lambda: architectures.random_model(self.name).save_pretrained(self.folder / "hf"))

    def export(self, exporter):
        return self.kept(f"onnx/{exporter}", EXPORT_SECONDS, self._export, exporter)

    def _export(self, exporter):
        file = self.file(exporter)
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {} if exporter == "torchscript" else dict(attention=self.row.attention)
        load = self.load if exporter.startswith("optimum") else functools.partial(architectures.traceable, self.name, self.folder / "hf")
        exports.EXPORTERS[exporter](load, self.row.task, file, **options)
        off = exports.difference(self.load(), self.row.task, file)
        assert off < LARGEST_DIFFERENCE, f"the file computes other logits than PyTorch: off by {off:.1e} of the largest"

    def file(self, exporter):
        return self.folder / "onnx" / exporter / "model.onnx"

    def case(self, method):
        settings = methods(self.row)[method]
        return self.kept(f"cases/{method}", REFERENCE_SECONDS, reference.write_case, self.folder / "cases" / method, self.load, self.row.task, settings,
                         families.seed(self.name, method))

    def check(self, binary, exporter, method):
        """What is other than PEFT has it, in words; empty where nothing is."""
        case = self.folder / "cases" / ("lora_all" if method == NAMES else method)
        with tempfile.TemporaryDirectory() as work:
            try:
                if method == NAMES:
                    wanted = set(load_file(case / "adapter_init/adapter_model.safetensors"))
                    follow.names(binary, self.file(exporter), self.row.task, wanted, pathlib.Path(work))
                else:
                    follow.follow(binary, self.file(exporter), case, pathlib.Path(work))
            except follow.Refused as why:
                return f"refused: {words(why)}"
            except Exception as why:
                return f"differs: {words(why)}"
        return ""

    def run(self, args):
        """Every check of every export; what was found before stays where it is not asked for."""
        results = self.results()
        wrong = self.build()
        for exporter in exports.EXPORTERS:
            if not asked(args.exporter, exporter):
                continue
            failed = wrong or self.export(exporter)
            cell = results.get(exporter, {}) if not failed else {}
            for method in (*methods(self.row), NAMES):
                if failed or not asked(args.method, method):
                    continue
                without = self.case("lora_all" if method == NAMES else method)
                cell[method] = f"PEFT: {without}" if without else self.check(args.binary, exporter, method)
            results[exporter] = {"export": failed} if failed else cell
            print(line(self.name, exporter, results[exporter]), flush=True)
            (self.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    def results(self):
        file = self.folder / "results.json"
        return json.loads(file.read_text()) if file.exists() else {}


def asked(words, name):
    """Whether a comma list of words, of parts of them or of =NAME, has a name."""
    return any(name == word[1:] if word.startswith("=") else word in name for word in words.split(","))


def line(name, exporter, cell):
    if "export" in cell:
        return f"-     {name}/{exporter}: {cell['export']}"
    wrong = [f"{method}: {said}" for method, said in cell.items() if said]
    fails = [said for said in wrong if ": PEFT: " not in said]
    return f"{'FAIL ' if fails else 'ok   '} {name}/{exporter}: {len(cell) - len(wrong)} of {len(cell)}" + "".join(f"\n        {said}" for said in wrong)


def run_all(chosen, args):
    """Runs architectures, so many at a time, each in a process of its own."""
    waiting, running = [Architecture(name, args.work) for name in chosen], []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            process = FORK.Process(target=waiting.pop(0).run, args=(args,))
            process.start()
            running.append((process, time.monotonic() + ARCHITECTURE_SECONDS))
        time.sleep(0.2)
        for process, end in running:
            if time.monotonic() > end:
                process.kill()
        running = [(process, end) for process, end in running if process.is_alive()]


NO_TASK = "doesn't support task"  # what optimum says where there is nothing to ask of it: a cache in an encoder


def cell_text(cell):
    if not cell or NO_TASK in cell.get("export", ""):
        return ""
    if "export" in cell:
        return "no file"
    told = [said for said in cell.values() if not said.startswith("PEFT: ")]
    return f"{sum(not said for said in told)} of {len(told)}"


def grouped(found, key):
    """For each `(key, what happens)` the architectures and exporters, from `key` of architecture, exporter, check and what was said."""
    groups = {}
    for name, cells in found.items():
        for exporter, cell in cells.items():
            for check, said in cell.items():
                if said and NO_TASK not in said and (at := key(name, exporter, check, said)):
                    groups.setdefault(at, {}).setdefault((name, exporter))
    return groups


def rows_of(groups, place):
    """Table rows: the first column of the key, the others' names joined, what happens."""
    return "\n".join(f"| {first} | {', '.join(dict.fromkeys(pair[place] for pair in pairs))} | {said.replace('|', '/')} |"
                     for (first, said), pairs in groups.items())


def wrong(name, _, check, said):
    return (f"{name}, {check}", said) if said.startswith(("differs", "refused")) else None


def not_run(name, _, check, said):
    return (f"{name}, {check}", said.removeprefix("PEFT: ")) if said.startswith("PEFT: ") else None


def no_file(_, exporter, check, said):
    return (exporter, re.sub(r"export an? [\w-]+ model", "export this model", said).split(". ")[0][:200]) if check == "export" else None


def page(found):
    """docs/ARCHITECTURES.md from everything that was found."""
    checks = [said for cells in found.values() for cell in cells.values() if "export" not in cell for said in cell.values() if not said.startswith("PEFT: ")]
    exporters = list(exports.EXPORTERS)
    rows = "\n".join(f"| {name} | {ARCHITECTURES[name].config.removesuffix('Config')} | {' | '.join(cell_text(cells.get(e)) for e in exporters)} |"
                     for name, cells in found.items())
    return f"""# Architectures

Made by `scripts/checks/check_architectures.py --page`; {sum(not said for said in checks)} of {len(checks)} checks pass.

Each row is a tiny random model that transformers builds from its configuration (`scripts/lib/architectures.py`), each column a file that an exporter wrote of it. On each file
adapters are trained beside Hugging Face PEFT and PyTorch, from the same start on the same rows, with some or all of {', '.join(methods(ARCHITECTURES['llama']))}. A check
passes where every step's loss is PyTorch's to {follow.LOSS} of it, every trained tensor to {follow.TENSOR} of its largest element and its update to a cosine of {follow.COSINE}, and the
merged model's logits to {follow.LOGITS} of the largest. One more check of each file: a fresh adapter on all linear modules has PEFT's names. Checks that PEFT itself does not run are
not counted.

Mixtures of experts: experts that are modules have PEFT's names (`model.layers.0.block_sparse_moe.experts.0.w1`). Where transformers loops over the experts that are hit,
exporters cannot follow; Mixtral, Qwen 2 and Qwen 3 are exported here with every expert on every token, weighted by 0 where it is not chosen. Experts in one tensor of three
axes (Granite, GPT-OSS) are no linear modules for PEFT: `all-linear` leaves them out, and `target_parameters` is refused.

| | transformers | {' | '.join(exporters)} |
|---|---|{'---|' * len(exporters)}
{rows}

## What does not pass

| | exporters | what happens |
|---|---|---|
{rows_of(grouped(found, wrong), 1)}

## What PEFT does not run

| | exporters | what PEFT says |
|---|---|---|
{rows_of(grouped(found, not_run), 1)}

## Files that exporters do not write

| exporter | architectures | what happens |
|---|---|---|
{rows_of(grouped(found, no_file), 0)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx", type=os.path.abspath)
    parser.add_argument("--work", default="target/architectures", type=pathlib.Path, help="where exports and PEFT's runs are kept")
    parser.add_argument("--only", default="", help="architectures with one of these words in their names: llama,=phi")
    parser.add_argument("--exporter", default="", help="the same for exporters")
    parser.add_argument("--method", default="", help="the same for checks")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="makes exports and PEFT's runs again")
    parser.add_argument("--page", action="store_true", help="writes docs/ARCHITECTURES.md of everything that was found, now and before")
    args = parser.parse_args()
    chosen = [name for name in ARCHITECTURES if asked(args.only, name)]
    for name in chosen if args.fresh else []:
        shutil.rmtree(args.work / name, ignore_errors=True)
    run_all(chosen, args)
    found = {name: Architecture(name, args.work).results() for name in ARCHITECTURES}
    if args.page:
        PAGE.write_text(page({name: cells for name, cells in found.items() if cells}))
    sys.exit(bool(grouped({name: found[name] for name in chosen}, wrong)))


if __name__ == "__main__":
    main()
