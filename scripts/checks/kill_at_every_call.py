"""Ends commands at every call that changes files: nothing is lost, and what is there is whole.

    python scripts/checks/kill_at_every_call.py [--program target/debug/peft-onnx] [--how kill,disk,signal] [--only NAME,..] [--verbose]

Each command runs once undisturbed under strace, which tells its calls that write, sync, rename, make or remove below the work folder. Then it runs again for each of
them and

    kill     is killed (SIGKILL) before that call,
    signal   gets SIGTERM at that call (every third one; SIGINT and SIGHUP at the others),
    disk     is told there that the disk is full.

`train` then goes on with --resume, or begins where nothing was saved, and must end with the same files, bit for bit, as a run that was never disturbed. Any other command
must leave the old output or the new one, each complete, and must work when it is given again. After that no temporary file is left; after a signal or a full disk there is none
at once. Needs strace, and the runtime where peft-onnx finds it (ORT_DYLIB_PATH).
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "models/fixtures"
MARK = ".peft-onnx-"
# What never decides what a bundle is: who held it last, what was found of the base's files, times.
PASSING = {".lock", ".base-checked.json", "report.html"}
CALLS = "open,openat,creat,write,pwrite64,writev,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,ftruncate,fallocate,chmod,fchmod,copy_file_range,sendfile,ioctl"
# Calls that fail where a disk is full; writing and syncing tell it, making names does where folders grow.
OF_FULL_DISKS = {"open", "openat", "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "symlink", "symlinkat", "mkdir", "mkdirat", "fsync", "ftruncate", "copy_file_range"}
LLAMA, BERT, T5 = "llama/dynamo.onnx", "bert_encoder/dynamo.onnx", "t5/dynamo.onnx"
TOKENS, TEXTS, CLASSES, PAIRS = "tokens.jsonl", "texts.jsonl", "classes.jsonl", "pairs.jsonl"
SAVES = "--max-steps 3 --save-steps 1 --batch-size 2 --threads 1"

# Name, model, options of inject, rows, options of train.
TRAINING = [
    ("lora", LLAMA, "--method lora", TOKENS, SAVES),
    ("dora", LLAMA, "--method lora --use-dora --dropout 0.1", TOKENS, f"{SAVES} --save-total-limit 1"),
    ("pissa", LLAMA, "--method lora --init-lora-weights pissa", TOKENS, SAVES),
    ("adalora", LLAMA, "--method adalora", TOKENS, SAVES),
    ("vera", LLAMA, "--method vera --rank 8", TOKENS, SAVES),
    ("prefix", LLAMA, "--method prefix_tuning --num-virtual-tokens 3", TOKENS, f"{SAVES} --save-total-limit 2"),
    ("encoder", LLAMA, "--method p_tuning --num-virtual-tokens 3", TOKENS, SAVES),
    ("evaluated", LLAMA, "--method lora", TOKENS, f"{SAVES} --eval-data {TOKENS} --eval-steps 1 --load-best --save-total-limit 1 --report-to tensorboard"),
    ("accumulated", LLAMA, "--method lora", TOKENS, f"{SAVES} --gradient-accumulation-steps 2 --lr-scheduler cosine"),
    ("head", BERT, "--method lora --num-labels 3", CLASSES, SAVES),
    ("seq2seq", T5, "--method lora", TOKENS, SAVES),
]

# Name, what is there before, the command, its output. Each replaces an output that an earlier form of it wrote.
LORA = f"inject {FIXTURES / LLAMA} --method lora --init-lora-weights random"
TINY = ROOT / "models/tiny-lm/model.onnx"
COMMANDS = [
    ("inject", [], f"{LORA} -o out", "out"),
    ("inject --force", [f"{LORA} --rank 4 -o out"], f"{LORA} -o out --force", "out"),
    ("convert", [], f"convert {FIXTURES / LLAMA} -o pair/out.onnx --form plain --weights external", "pair"),
    ("convert --force", [f"convert {FIXTURES / BERT} -o pair/out.onnx --weights external"], f"convert {FIXTURES / LLAMA} -o pair/out.onnx --form plain --weights external --force", "pair"),
    ("combine --force", [f"{LORA} -o b", f"{LORA} --seed 7 -o c", "combine b c --method svd --rank 4 -o out"], "combine b c --method svd -o out --force", "out"),
    ("merge --force", [f"{LORA} -o b", f"{LORA} --rank 4 -o c", "merge c -o pair/out.onnx --weights external --no-verify"], "merge b -o pair/out.onnx --weights external --no-verify --force", "pair"),
    ("merge in a folder", [f"inject {TINY} --method lora -o b"], "merge b -o out --layout optimum --no-verify", "out"),
    ("export peft", [f"{LORA} -o b"], "export b --format peft -o out", "out"),
    ("export peft --force", [f"{LORA} -o b", f"{LORA} --rank 4 -o c", "export c --format peft -o out"], "export b --format peft -o out --force", "out"),
    ("export training --force", [f"{LORA} -o b", f"{LORA} --rank 4 -o c", "export c --format training -o out"], "export b --format training -o out --force", "out"),
    ("export inference --force", [f"{LORA} -o b", f"{LORA} --rank 4 -o c", "export c --format inference -o out.onnx"], "export b --format inference -o out.onnx --force", "."),
    ("export vjp", [f"{LORA} -o b"], "export b --format vjp -o out", "out"),
    ("export onnx_adapter --force", [f"{LORA} -o b", f"{LORA} --rank 4 -o c", "export c --format onnx_adapter -o out.onnx_adapter"], "export b --format onnx_adapter -o out.onnx_adapter --force", "."),
    ("finetune", [], f"finetune {TINY} --data {TEXTS} -o out --max-steps 2 --max-length 16 --batch-size 2 --threads 1", "out"),
    ("data mine-negatives --force", [f"inject {TINY} --method lora --task embedding --loss mnrl --pooling mean -o b", f"data mine-negatives {PAIRS} --model b --num-negatives 2 -o out.jsonl"],
     f"data mine-negatives {PAIRS} --model b --num-negatives 1 -o out.jsonl --force", "."),
    ("predict", [f"inject {TINY} --method lora -o b"], f"predict b --data {TEXTS} --max-new-tokens 2 --threads 1 -o out.jsonl", "."),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/debug/peft-onnx", type=pathlib.Path)
    parser.add_argument("--how", default="kill,disk,signal")
    parser.add_argument("--only", default="", help="names of rows, with commas between")
    parser.add_argument("--every", default=1, type=int, help="take every so many-th call alone")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def write_rows(folder):
    def put(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    numbers = [[1 + (7 * row + 3 * place) % 50 for place in range(4 + row % 3)] for row in range(6)]
    put(TOKENS, [{"input_ids": row, "labels": row} for row in numbers])
    put(CLASSES, [{"input_ids": row, "label": "abc"[place % 3]} for place, row in enumerate(numbers)])
    put(TEXTS, [{"text": text} for text in ["The sea is calm.", "A ship came in.", "No wind at all.", "Night fell soon."]])
    put(PAIRS, [{"anchor": f"where is {word}", "positive": f"{word} is here"} for word in ["the sea", "a ship", "the wind", "night"]])


class Program:
    """The program in a folder of its own."""

    def __init__(self, path, folder):
        self.path, self.folder = path.resolve(), folder
        self.environment = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        library = ROOT / ".ort"
        if "ORT_DYLIB_PATH" not in os.environ and library.is_dir():
            self.environment["ORT_DYLIB_PATH"] = str(library)

    def run(self, command, *strace):
        line = [*(["strace", "-f", "-qq", "-y", *strace] if strace else []), self.path, *command.split(), "--quiet"]
        ended = subprocess.run(line, cwd=self.folder, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
        return ended.returncode, ended.stderr

    def must(self, command):
        code, said = self.run(command)
        if code:
            sys.exit(f"cannot be prepared: peft-onnx {command}\n{said}")

    def calls(self, command):
        """The calls of a command that change what is below its folder, as (name, number of its name in its thread)."""
        trace = self.folder.parent / "trace"
        code, said = self.run(command, "-o", str(trace), "-e", f"trace={CALLS}")
        if code:
            sys.exit(f"fails undisturbed: peft-onnx {command}\n{said}")
        here, counts, found = str(self.folder), collections.Counter(), []
        for line in trace.read_text(errors="replace").splitlines():
            start = re.match(r"(\d+) +(\w+)\((.*)", line)
            if not start:
                continue
            thread, name, rest = start.groups()
            counts[thread, name] += 1
            is_change = not name.startswith("open") or re.search(r"O_(CREAT|WRONLY|RDWR|TRUNC)", rest)
            # Paths of a name alone are relative to the folder.
            if is_change and (here in rest or (name in ("mkdir", "rename", "unlink", "symlink", "chmod", "rmdir") and not rest.startswith('"/'))):
                found.append((name, counts[thread, name]))
        return list(dict.fromkeys(found))


def digest(path):
    return f"-> {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def metrics(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def files(folder):
    """The files below a folder, with what is in them; those that are passing are left out, and so are temporary ones."""
    if not folder.exists():
        return None
    if folder.is_file():
        return digest(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in PASSING or MARK in name or "tfevents" in name or (path.is_dir() and not path.is_symlink()):
            continue
        # Runs tell when they were; what they came to is compared.
        found[name] = metrics(path) if path.name == "metrics.jsonl" and not path.is_symlink() else None if path.name in ("run.json", "config.yaml", "README.md") else digest(path)
    return found or None


def temporary(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob(f"{MARK}*")]


def outcome(bundle):
    """What a bundle's training came to, whichever run it was: adapter, the newest run's numbers, and its checkpoints."""
    runs = sorted((bundle / "runs").iterdir())
    steps = {path.name: files(path) for path in (runs[-1] / "checkpoints").glob("step-*")}
    adapter = {path.name: digest(path) for path in bundle.glob("*.safetensors")} | {"inference.onnx": digest(bundle / "inference.onnx")}
    return {"adapter": adapter, "metrics": metrics(runs[-1] / "metrics.jsonl"), "checkpoints": steps}


SIGNALS = [("TERM", 143), ("INT", 130), ("HUP", 129)]


def disturbed(program, command, how, place, call):
    """Runs a command that is disturbed at a call; gives what is wrong with how it ended, and whether it was disturbed at all."""
    name, number = call
    signal, code_of = SIGNALS[place % 3]
    what = {"kill": "signal=KILL", "disk": "error=ENOSPC", "signal": f"signal={signal}"}[how]
    code, said = program.run(command, "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:{what}:when={number}")
    if "panicked" in said:
        return [f"a panic: {said}"], True
    if how == "kill":
        return [], code in (-9, 137)
    wrong = []
    if how == "signal" and code not in (0, code_of):
        wrong.append(f"exit code {code} after SIG{signal}: {said.strip()[:200]}")
    if how == "disk" and code not in (0, 1):
        wrong.append(f"exit code {code}: {said.strip()[:200]}")
    if how == "disk" and code == 1 and not (said.startswith("error: ") or "\nerror: " in said):
        wrong.append(f"no error is told: {said.strip()[:200]}")
    if how == "disk" and code == 1 and "No space left" not in said and "no space left" not in said:
        wrong.append(f"the error does not tell why: {said.strip()[:200]}")
    return wrong, code != 0


def goes_on(program, command, bundle):
    """Has a run that was ended go on until it is done; gives what is wrong."""
    for _ in range(2):
        saved = any(path.name.startswith("step-") for path in bundle.glob("runs/*/checkpoints/*"))
        code, said = program.run(command + (" --resume" if saved else ""))
        if code:
            return [f"it cannot go on: {said.strip()[:300]}"]
        if saved:
            return []
        if any(bundle.glob("runs/*/checkpoints/step-*")):
            return []
    return ["it saves nothing"]


def restore(before, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder, symlinks=True)


def train_row(program, row, before, hows, every):
    name, model, inject, rows, options = row
    program.must(f"inject {FIXTURES / model} {inject} -o b")
    shutil.copytree(program.folder, before, symlinks=True)
    command, bundle = f"train b --data {rows} {options}", program.folder / "b"
    calls = program.calls(command)
    expected = outcome(bundle)
    for how in hows:
        for place, call in enumerate(calls):
            if place % every or (how == "disk" and call[0] not in OF_FULL_DISKS):
                continue
            restore(before, program.folder)
            wrong, is_disturbed = disturbed(program, command, how, place, call)
            if how != "kill":
                wrong += [f"left behind: {left}" for left in temporary(program.folder)]
            wrong += goes_on(program, command, bundle) if is_disturbed else []
            if not wrong:
                now = outcome(bundle)
                wrong += [f"another {part}" for part in expected if now[part] != expected[part]]
            wrong += [f"left behind in the end: {left}" for left in temporary(program.folder)]
            yield how, call, is_disturbed, wrong


def command_row(program, row, before, hows, every):
    _, earlier, command, output = row
    for line in earlier:
        program.must(line)
    shutil.copytree(program.folder, before, symlinks=True)
    there = program.folder / output
    old = files(there)
    calls = program.calls(command)
    new = files(there)
    for how in hows:
        for place, call in enumerate(calls):
            if place % every or (how == "disk" and call[0] not in OF_FULL_DISKS):
                continue
            restore(before, program.folder)
            wrong, is_disturbed = disturbed(program, command, how, place, call)
            now = files(there)
            if now not in (old, new) and not is_data_alone(now, old, new) and not is_other_pair(now, old):
                wrong.append(f"neither the old output nor the new one: {tell(now, old, new)}")
            if how == "disk" and is_disturbed and now != old:
                wrong.append("it says that it failed, and the output is the new one")
            if how != "kill":
                wrong += [f"left behind: {left}" for left in temporary(program.folder)]
            again = command if "--force" in command or now == old else command + " --force"
            code, said = program.run(again)
            if code:
                wrong.append(f"given again, it fails: {said.strip()[:300]}")
            elif files(there) != new and not is_other_pair(files(there), now):
                wrong.append(f"given again, it makes something else: {tell(files(there), old, new)}")
            wrong += [f"left behind in the end: {left}" for left in temporary(program.folder)]
            yield how, call, is_disturbed, wrong


def is_data_alone(now, old, new):
    """Whether the weights of a model are there, and the model that refers to them is not yet: where there was none, a pair appears data first."""
    added = {name: text for name, text in (now or {}).items() if name not in (old or {})}
    return all(name.endswith(".data") and new.get(name) == text for name, text in added.items()) and {name: (now or {}).get(name) for name in old or {}} == (old or {})


def is_other_pair(now, old):
    """Whether a model and its weights are there, all new, under another name of the weights: where no folder could be made to be exchanged."""
    return now is not None and sorted(name.rpartition(".")[2] for name in now) == ["data", "onnx"] and not set(now.values()) & set((old or {}).values())


def tell(now, old, new):
    if not all(isinstance(some, dict) for some in (now, new)):
        return f"{now}"[:200]
    odd = {name for name in now.keys() | new.keys() if now.get(name) != new.get(name)}
    return ", ".join(f"{name} {'is missing' if name not in now else 'is old' if old and old.get(name) == now[name] else 'is another'}" for name in sorted(odd))[:300]


def main():
    chosen = arguments()
    hows, only = chosen.how.split(","), [name for name in chosen.only.split(",") if name]
    total, faults = collections.Counter(), 0
    for kind, rows in ((train_row, TRAINING), (command_row, COMMANDS)):
        for row in rows:
            if only and row[0] not in only:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                work = pathlib.Path(scratch).resolve() / "work"
                (work / "pair").mkdir(parents=True)
                write_rows(work)
                counts, wrongs = collections.Counter(), collections.Counter()
                for how, call, is_disturbed, wrong in kind(Program(chosen.program, work), row, work.parent / "before", hows, chosen.every):
                    counts[how] += is_disturbed
                    wrongs.update(f"{how} at {call[0]} {call[1]}: {text}" if chosen.verbose else f"{how}: {text}" for text in wrong)
                total.update(counts)
                faults += sum(wrongs.values())
                print(f"{row[0]}: " + ", ".join(f"{count} x {how}" for how, count in counts.items()) + f", {sum(wrongs.values())} faults", flush=True)
                for text, count in sorted(wrongs.items()):
                    print(f"  {text.replace(scratch, '')} ({count})", flush=True)
    print(", ".join(f"{count} x {how}" for how, count in total.items()) + f": {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
