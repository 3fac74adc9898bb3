"""Times and memory of inspect and inject on generated decoders whose weights nobody could keep in memory.

    python scripts/bench/scale.py [--binary target/release/peft-onnx] [--write docs/BENCHMARKS.md]

Needs the package onnx. The models are Llama-shaped graphs written node by node, their weights external data in a sparse file: a 7B-shaped
one (32 layers, hidden 4096), and narrow ones of 50, 100 and 200 layers to see how time grows with nodes. Private memory is the largest
RssAnon of the process (/proc/PID/status); pages of weights that were read count as RssFile.
"""

import argparse
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import onnx
from onnx import TensorProto, helper

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages



class Decoder:
    """A Llama-shaped graph as torch.onnx writes it: 39 nodes a layer."""

    def __init__(self, layers, hidden, inner, heads, vocabulary):
        self.hidden, self.heads, self.size = hidden, heads, hidden // heads
        self.nodes, self.constants, self.end = [], [], 0
        self.small("eps", TensorProto.FLOAT, [], [1e-6])
        self.small("two", TensorProto.FLOAT, [], [2.0])
        self.small("scale", TensorProto.FLOAT, [], [self.size**-0.5])
        self.small("split", TensorProto.INT64, [4], [0, 0, heads, self.size])
        self.small("join", TensorProto.INT64, [3], [0, 0, hidden])
        self.small("minus_one", TensorProto.INT64, [1], [-1])
        for name, value in [("zero", 0), ("one", 1)]:
            self.small(name, TensorProto.INT64, [], [value])
            self.small(name + "s", TensorProto.INT64, [1], [value])
        self.small("least", TensorProto.FLOAT, [], [-3.4e38])
        x = self.node("Gather", [self.weight("model.embed_tokens.weight", [vocabulary, hidden]), "input_ids"], "/model/embed_tokens")
        mask = self.mask()
        for layer in range(layers):
            x = self.layer(x, mask, f"model.layers.{layer}", inner)
        x = self.norm(x, "model.norm")
        self.linear(x, "lm_head", hidden, vocabulary, output="logits")

    def small(self, name, kind, dims, values):
        self.constants.append(helper.make_tensor(name, kind, dims, values))

    def weight(self, name, dims):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        count = 4
        for length in dims:
            count *= length
        for key, value in [("location", "model.onnx.data"), ("offset", str(self.end)), ("length", str(count))]:
            tensor.external_data.add(key=key, value=value)
        self.end += count
        self.constants.append(tensor)
        return name

    def node(self, op, inputs, scope, output=None, **attributes):
        name = f"{scope}/{op}" if scope.startswith("/") else f"/{scope.replace('.', '/', 0)}/{op}"
        output = output or f"{name}_{len(self.nodes)}_output_0"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{name}_{len(self.nodes)}", **attributes))
        return output

    def scope(self, module):
        parts = re.sub(r"\.(\d+)", r".\1", module).split(".")
        joined, path = [], ""
        for part in parts:
            if part.isdigit():
                joined[-1] += f".{part}"
            else:
                joined.append(part)
        for part in joined:
            path += "/" + part
        return path

    def linear(self, x, module, rows, columns, output=None):
        weight = self.weight(f"{module}.weight_T", [rows, columns])
        return self.node("MatMul", [x, weight], self.scope(module), output=output)

    def norm(self, x, module):
        at = self.scope(module)
        squared = self.node("Pow", [x, "two"], at)
        mean = self.node("ReduceMean", [squared, "minus_one"], at)
        root = self.node("Sqrt", [self.node("Add", [mean, "eps"], at)], at)
        return self.node("Mul", [self.node("Div", [x, root], at), self.weight(f"{module}.weight", [self.hidden])], at)

    def mask(self):
        at = "/model"
        shape = self.node("Shape", ["input_ids"], at)
        length = self.node("Gather", [shape, "one"], at, axis=0)
        places = self.node("Range", ["zero", length, "one"], at)
        row = self.node("Unsqueeze", [places, "ones"], at)
        later = self.node("Cast", [self.node("Greater", [places, row], at)], at, to=TensorProto.FLOAT)
        return self.node("Mul", [later, "least"], at)

    def layer(self, x, mask, module, inner):
        attention, mlp = f"{module}.self_attn", f"{module}.mlp"
        at = self.scope(attention)
        normal = self.norm(x, f"{module}.input_layernorm")
        parts = []
        for part, perm in [("q_proj", [0, 2, 1, 3]), ("k_proj", [0, 2, 3, 1]), ("v_proj", [0, 2, 1, 3])]:
            flat = self.linear(normal, f"{attention}.{part}", self.hidden, self.hidden)
            parts.append(self.node("Transpose", [self.node("Reshape", [flat, "split"], at)], at, perm=perm))
        scores = self.node("Mul", [self.node("MatMul", parts[:2], at), "scale"], at)
        weights = self.node("Softmax", [self.node("Add", [scores, mask], at)], at, axis=-1)
        context = self.node("Transpose", [self.node("MatMul", [weights, parts[2]], at)], at, perm=[0, 2, 1, 3])
        joined = self.node("Reshape", [context, "join"], at)
        x = self.node("Add", [x, self.linear(joined, f"{attention}.o_proj", self.hidden, self.hidden)], self.scope(module))
        normal = self.norm(x, f"{module}.post_attention_layernorm")
        gate = self.linear(normal, f"{mlp}.gate_proj", self.hidden, inner)
        up = self.linear(normal, f"{mlp}.up_proj", self.hidden, inner)
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate], self.scope(mlp))], self.scope(mlp))
        product = self.node("Mul", [silu, up], self.scope(mlp))
        return self.node("Add", [x, self.linear(product, f"{mlp}.down_proj", inner, self.hidden)], self.scope(module))

    def write(self, folder):
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", None])
        graph = helper.make_graph(self.nodes, "main_graph", [ids], [logits], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with open(folder / "model.onnx.data", "wb") as data:
            data.truncate(self.end)


def private_memory(pid):
    """Anonymous resident bytes of a process, 0 if it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    return int(found.group(1)) * 1024 if found else 0


def measured(*command):
    """Seconds, seconds of the processor, and the largest private memory of a command."""
    start, before, most = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    errors = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    while process.poll() is None:
        most = max(most, private_memory(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    if process.returncode:
        errors.seek(0)
        sys.exit(f"{' '.join(command)}: {errors.read()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, most


MODELS = [
    ("7B-shaped", Decoder, (32, 4096, 11008, 32, 32000)),
    ("50 layers", Decoder, (50, 64, 128, 4, 256)),
    ("100 layers", Decoder, (100, 64, 128, 4, 256)),
    ("200 layers", Decoder, (200, 64, 128, 4, 256)),
]


def rows(binary):
    for name, make, shape in MODELS:
        decoder = make(*shape)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            decoder.write(folder)
            model, bundle = str(folder / "model.onnx"), folder / "bundle"
            inspect = measured(binary, "inspect", model, "--json")
            inject = measured(binary, "inject", model, "--method", "lora", "--rank", "8", "-o", str(bundle))
            # A second time, when nothing is new to the file cache.
            shutil.rmtree(bundle)
            again = measured(binary, "inject", model, "--method", "lora", "--rank", "8", "-o", str(bundle))
        seconds, busy = min(inject[0], again[0]), min(inject[1], again[1])
        nodes = len(decoder.nodes)
        size = f"{decoder.end / 1e9:.1f} GB" if decoder.end > 1e9 else f"{decoder.end / 1e6:.0f} MB"
        row = [name, str(nodes), size, f"{inspect[1]:.2f} s", f"{inspect[2] / 1e6:.0f} MB"]
        row += [f"{busy:.2f} s", f"{max(inject[2], again[2]) / 1e6:.0f} MB", f"{1e3 * busy / nodes:.2f} ms"]
        print(f"{name}: inspect {inspect[0]:.2f} s, inject {seconds:.2f} s by the clock", file=sys.stderr)
        print(" | ".join(row), flush=True)
        yield row


def section(binary):
    head = ["model", "nodes", "weights", "inspect", "private memory", "inject", "private memory", "a node"]
    lines = [
        "## Scale",
        "",
        f"Generated decoders with their weights in sparse files, on {pages.cpu()}, by `python scripts/bench/scale.py` (LoRA of rank 8 at every linear",
        "layer; the four graphs of training written). Seconds of one processor. Weights are never read; time and memory follow the number of nodes",
        "and of trainable parameters.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows(binary)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--only", default="", help="models whose name contains this")
    options = parser.parse_args()
    MODELS[:] = [model for model in MODELS if options.only in model[0]]
    text = section(options.binary)
    if options.write:
        pages.put(options.write, "scale.py", text)


if __name__ == "__main__":
    main()
