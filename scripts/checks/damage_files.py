"""Gives commands damaged files of the kinds that lie beside models and rows: each ends in time, with a result or an error.

    python scripts/checks/damage_files.py [--program target/debug/peft-onnx] [--count 200] [--seed 1] [--kinds parquet,image,..] [--keep FOLDER]

Each command has 20 s of processor time and 3 GB. Kinds: parquet, packed (.gz), table, image, processor (preprocessor_config.json), beside (config.json, modules.json, generation_config.json and
their like), loss (--loss-graph), teacher, part (--part), run (run.json, config.yaml, metrics.jsonl), vjp (the graphs behind `export --format vjp`), layout (`merge --layout`). Models, safetensors,
adapters, tokenizers, manifests and checkpoints are `fuzz_models.py`'s and the fuzz targets'. Needs a Python with onnx and numpy.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES, MEDIA, TINY = ROOT / "models/fixtures", ROOT / "tests/fixtures/media", ROOT / "models/tiny-lm"
SECONDS, PATIENCE, MEMORY = 20, 600, 3_000_000 << 10
LARGE = [-(2**63), -(2**31), -1, 0, 1, 2**16, 2**31 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**64 - 1, 1e300]
ODD = [None, True, [], {}, "", "x" * 5000, "..", "../../x", "/dev/zero", "a\0b", "(a+)+$", "\u202e", float("nan"), float("inf"), 0.5, [[[]]], {"a": {"b": {}}}, *LARGE]
pick = random.Random()


def in_bytes(data):
    data = bytearray(data)
    for _ in range(pick.choice([1, 1, 1, 2, 4])):
        if not data:
            break
        at, other = pick.randrange(len(data)), pick.randrange(len(data))
        length = pick.choice([1, 2, 4, 8, 64])
        change = pick.randrange(7)
        if change == 0:
            data[at] ^= 1 << pick.randrange(8)
        elif change == 1:
            data[at] = pick.choice([0, 1, 127, 128, 255])
        elif change == 2 and pick.random() < 0.3:
            del data[at:]
        elif change == 3:
            del data[at : at + length]
        elif change == 4:
            data[at:at] = bytes(pick.choice([0, 255, pick.randrange(256)]) for _ in range(length))
        elif change == 5:
            data[at : at + length] = data[other : other + length]
        else:
            data[at : at + 4] = struct.pack(pick.choice(["<I", ">I"]), pick.choice([0, 1, 65535, 2**31 - 1, 2**32 - 1]))
    return bytes(data)


def in_json(text):
    """A document with one to three values replaced, left out, doubled or made large."""
    document = json.loads(text)
    for _ in range(pick.choice([1, 1, 2, 3])):
        places = []

        def walk(value):
            for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
                places.append((value, key))
                walk(value[key])

        walk(document)
        if not places:
            break
        value, key = pick.choice(places)
        change = pick.randrange(4)
        if change == 0 and isinstance(value, dict):
            del value[key]
        elif change == 1 and isinstance(value[key], (int, float)) and not isinstance(value[key], bool):
            value[key] = pick.choice(LARGE)
        else:
            value[key] = pick.choice(ODD)
    return json.dumps(document).encode("utf8", "surrogatepass")


def damaged(data):
    """JSON mostly as JSON, anything else as bytes."""
    if pick.random() < 0.75:
        try:
            return in_json(data)
        except ValueError:
            pass
    return in_bytes(data)


class Work:
    """A folder with what commands need, and files that are damaged one at a time."""

    def __init__(self, program, folder):
        self.program, self.folder = program.resolve(), folder
        self.environment = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        if "ORT_DYLIB_PATH" not in os.environ and (ROOT / ".ort").is_dir():
            self.environment["ORT_DYLIB_PATH"] = str(ROOT / ".ort")

    def run(self, line):
        def limits():
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        try:
            ended = subprocess.run([self.program, *line.split()], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, preexec_fn=limits)
        except subprocess.TimeoutExpired:
            return "waits", ""
        return ended.returncode, ended.stderr.decode("utf8", "replace")

    def must(self, line):
        code, said = self.run(line)
        if code:
            sys.exit(f"cannot be prepared: peft-onnx {line}\n{said}")

    def put(self, name, data):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def take(self, source, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


def verdict(code, said):
    if "memory allocation of" in said:
        return "out of memory"
    if "panicked" in said or code == 101:
        return "panic: " + " ".join(said.split("panicked at", 1)[-1].split())[:120]
    if code in (-24, -9, "waits"):
        return "no end in time"
    if isinstance(code, int) and code < 0:
        return f"signal {-code}"
    if code in (1, 2) and "error: " not in said:
        return "no error is told"
    return None


PROCESSOR = json.dumps({"do_resize": True, "size": {"height": 12, "width": 12}, "resample": 3, "do_center_crop": True, "crop_size": 12, "do_rescale": True, "rescale_factor": 0.0039, "do_normalize": True,
                        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_pad": False})


# A kind: what it needs, the files that are damaged (name and content), and the commands that are given them.
def parquet(work):
    return [("rows.parquet", (ROOT / "tests/fixtures/rows.parquet").read_bytes())], ["data rows.parquet"]


def packed(work):
    row = b'{"text": "Once upon a time"}\n'
    return [("rows.jsonl.gz", gzip.compress(row * 50)), ("rows.csv.gz", gzip.compress(b"text,label\n" + b"once,1\n" * 50))], ["data rows.jsonl.gz", "data rows.csv.gz"]


def table(work):
    rows = {"rows.csv": "text;label\n\"one; two\";3\n", "rows.tsv": "a\tb\nx\ty\n", "rows.json": '[{"text": "x"}, {"text": "y", "tags": [1, 2]}]', "rows.txt": "one\n\ntwo\n"}
    return [(name, text.encode()) for name, text in rows.items()], [f"data {name}" for name in rows]


def image(work):
    work.take(FIXTURES / "vit_classifier/optimum.onnx", "vit/model.onnx")
    work.put("vit/preprocessor_config.json", PROCESSOR)
    pictures = sorted(path for path in MEDIA.iterdir() if path.suffix in (".png", ".bmp", ".gif", ".webp", ".jpg"))
    for path in pictures:
        work.put(f"{path.name}.jsonl", json.dumps({"image": path.name}) + "\n")
    return [(path.name, path.read_bytes()) for path in pictures], [f"predict vit/model.onnx --data {path.name}.jsonl --threads 1" for path in pictures]


def processor(work):
    work.take(FIXTURES / "vit_classifier/optimum.onnx", "vit/model.onnx")
    work.take(MEDIA / "photo.png", "photo.png")
    work.put("rows.jsonl", '{"image": "photo.png"}\n')
    return [("vit/preprocessor_config.json", PROCESSOR.encode())], ["predict vit/model.onnx --data rows.jsonl --threads 1"]


def beside(work):
    work.take(TINY, "lm")
    work.take(FIXTURES / "bert_encoder/torchscript.onnx", "body/model.onnx")
    work.put("lm/generation_config.json", json.dumps({"eos_token_id": [1, 2], "max_length": 20, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.1, "num_beams": 1}))
    work.put("body/modules.json", json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}, {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                                              {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]))
    work.put("body/1_Pooling/config.json", json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    work.put("body/sentence_bert_config.json", json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    work.put("body/config.json", json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_attention_heads": 4, "id2label": {"0": "a", "1": "b"}, "max_position_embeddings": 64}))
    names = ["lm/generation_config.json", "lm/config.json", "lm/tokenizer_config.json", "body/modules.json", "body/1_Pooling/config.json", "body/sentence_bert_config.json", "body/config.json"]
    files = [(name, (work.folder / name).read_bytes()) for name in names if (work.folder / name).exists()]
    lm, body = "generate lm/model.onnx --prompt Once --max-new-tokens 2 --threads 1", "inject body/model.onnx --method lora --task embedding -o out"
    return files, [lm if name.startswith("lm") else body for name, _ in files]


def loss_graph():
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes"])
    labels = helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"])
    cost = numpy_helper.from_array(np.array([[0, 1, 5], [1, 0, 1], [2, 1, 0]], np.float32)[:, :1], "cost")
    axes = numpy_helper.from_array(np.array([-1]), "axes")
    nodes = [helper.make_node("Softmax", ["logits"], ["shares"]), helper.make_node("Gather", ["cost", "labels"], ["costs"]), helper.make_node("Mul", ["shares", "costs"], ["expected"]),
             helper.make_node("ReduceSum", ["expected", "axes"], ["sums"], keepdims=0), helper.make_node("ReduceMean", ["sums"], ["loss"], keepdims=0)]
    graph = helper.make_graph(nodes, "loss", [logits, labels], [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])], [cost, axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_graph(data):
    """A model with an operator, an input, an attribute or a length changed; or just damaged bytes."""
    if pick.random() < 0.3:
        return in_bytes(data)
    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(pick.choice([1, 1, 2])):
        try:
            node = pick.choice(graph.node)
            change = pick.randrange(6)
            if change == 0:
                node.op_type = pick.choice(["Softmax", "ReduceMean", "Reshape", "ConstantOfShape", "Loop", "Neg", "MatMul", "Acme", "Expand", "Concat"])
            elif change == 1:
                node.input[pick.randrange(len(node.input))] = pick.choice([i.name for i in graph.input] + ["", "nobody"])
            elif change == 2:
                dims = pick.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim
                dims[pick.randrange(len(dims))].dim_value = pick.choice([0, 1, -1, 2**31, 2**40, 2**62])
            elif change == 3:
                pick.choice([*graph.input, *graph.output]).name = pick.choice(["x", "", "logits", "teacher_logits", "a" * 3000])
            elif change == 4:
                graph.initializer.append(numpy_helper.from_array(np.array([pick.choice([2**40, 2**62, -1])], np.int64), "big"))
                graph.node.insert(0, helper.make_node("ConstantOfShape", ["big"], ["wide"]))
                node.input[pick.randrange(len(node.input))] = "wide"
            else:
                pick.choice([*graph.input, *graph.output]).type.tensor_type.elem_type = pick.choice([0, 1, 6, 7, 9, 10, 11, 99])
        except (IndexError, ValueError):
            pass
    return model.SerializeToString()


def loss(work):
    work.take(FIXTURES / "bert_classifier/dynamo.onnx", "model.onnx")
    return [("loss.onnx", loss_graph().SerializeToString())], ["inject model.onnx --method lora --task seq-cls --loss-graph loss.onnx -o out"]


def teacher(work):
    model = FIXTURES / "bert_classifier/dynamo.onnx"
    work.take(model, "model.onnx")
    work.take(model, "teacher.onnx")
    work.put("rows.jsonl", '{"input_ids":[1,2,3,4],"label":1}\n{"input_ids":[4,2],"label":0}\n')
    work.must("inject model.onnx --method lora --task seq-cls --distill-weight 0.5 --teacher teacher.onnx -o b")
    return [("teacher.onnx", model.read_bytes())], ["train b --data rows.jsonl --max-steps 1 --batch-size 1 --threads 1"]


def part(work):
    work.take(FIXTURES / "llama/dynamo.onnx", "model.onnx")
    return [("part.onnx", (FIXTURES / "bert_encoder/dynamo.onnx").read_bytes())], ["inject model.onnx --part part.onnx --method lora -o out", "inspect part.onnx --explain"]


def run(work):
    work.take(FIXTURES / "llama/dynamo.onnx", "model.onnx")
    work.put("rows.jsonl", '{"input_ids":[1,2,3,4],"labels":[1,2,3,4]}\n' * 4)
    work.must("inject model.onnx --method lora -o b")
    train = "train b --data rows.jsonl --batch-size 1 --threads 1 --save-steps 1 --eval-data rows.jsonl --eval-steps 1 --report-to tensorboard"
    work.must(f"{train} --max-steps 2")
    names = ["run.json", "config.yaml", "metrics.jsonl", "checkpoints/step-2/trainer.json", "checkpoints/step-2/adapter_config.json"]
    names += [path.name for path in (work.folder / "b/runs/001").glob("events*")]
    files = [(f"b/runs/001/{name}", (work.folder / "b/runs/001" / name).read_bytes()) for name in names]
    lines = ["runs b", f"{train} --max-steps 3 --resume", "merge b --checkpoint best -o out.onnx --no-verify", "train b --config b/runs/001/config.yaml --max-steps 1 --restart"]
    return files, [pick.choice(lines) for _ in range(97)]


def vjp(work):
    work.take(FIXTURES / "bert_classifier/dynamo.onnx", "model.onnx")
    work.must("inject model.onnx --method lora --task seq-cls -o b")
    names = ["b/peft-onnx.json", "b/evaluation.onnx", "b/gradient.onnx", "model.onnx"]
    return [(name, (work.folder / name).read_bytes()) for name in names], ["export b --format vjp -o out"]


def layout(work):
    work.take(TINY, "lm")
    work.must("inject lm/model.onnx --method lora -o b")
    names = ["lm/config.json", "lm/tokenizer_config.json", "b/peft-onnx.json", "b/adapter_config.json"]
    files = [(name, (work.folder / name).read_bytes()) for name in names if (work.folder / name).exists()]
    return files, [f"merge b -o {name} --layout {name} --no-verify" for name in ("optimum", "transformers.js", "genai", "onnx")]


KINDS = [parquet, packed, table, image, processor, beside, loss, teacher, part, run, vjp, layout]
GRAPHS = {"loss", "teacher", "part"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/debug/peft-onnx", type=pathlib.Path)
    parser.add_argument("--count", default=200, type=int)
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--kinds", default=",".join(kind.__name__ for kind in KINDS))
    parser.add_argument("--keep", type=pathlib.Path)
    return parser.parse_args()


def keep(folder, name, data, line, said):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "how.txt").write_text(f"{line}\n{name}\n{said[-3000:]}")
    (folder / pathlib.Path(name).name).write_bytes(data)


def tried(kind, chosen):
    faults, ends = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        work = Work(chosen.program, pathlib.Path(scratch))
        files, lines = kind(work)
        whole = dict(files)
        for name, data in files:
            work.put(name, data)
        for _ in range(chosen.count):
            place = pick.randrange(len(files))
            name = files[place][0]
            # The bundle is as it was but for the one file.
            shutil.copytree(work.folder, f"{scratch}.now", symlinks=True)
            now = Work(chosen.program, pathlib.Path(f"{scratch}.now"))
            data = in_graph(whole[name]) if kind.__name__ in GRAPHS or name.endswith(".onnx") else damaged(whole[name])
            now.put(name, data)
            line = lines[place] if len(lines) == len(files) else pick.choice(lines)
            code, said = now.run(line)
            ends[code] += 1
            if fault := verdict(code, said):
                key = re.sub(r"\d+", "N", f"{line.split()[0]}: {fault}")
                if chosen.keep and not faults[key]:
                    keep(chosen.keep / f"{kind.__name__}-{len(faults)}", name, data, line, said)
                faults[key] += 1
            shutil.rmtree(now.folder)
    return ends, faults


def main():
    chosen = arguments()
    total = bad = 0
    for kind in KINDS:
        if kind.__name__ not in chosen.kinds.split(","):
            continue
        pick.seed(f"{chosen.seed} {kind.__name__}")
        ends, faults = tried(kind, chosen)
        total += sum(ends.values())
        bad += sum(faults.values())
        print(f"{kind.__name__}: " + ", ".join(f"{count} x {code}" for code, count in ends.most_common()), flush=True)
        for fault, count in faults.items():
            print(f"  {count} x {fault}", flush=True)
    print(f"{total} runs, {bad} that did not end well")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
