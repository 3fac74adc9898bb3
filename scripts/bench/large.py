"""Trains and merges generated decoders with weights of their own: memory of a base in 4 bits, and a base beyond 2 GB in several files.

    python scripts/bench/large.py [--binary target/release/peft-onnx] [--write docs/BENCHMARKS.md] [--only WORD]

Needs the packages onnx, onnxruntime and numpy, 10 GB of disk and 8 GB of memory. The graphs are those of scale.py, their weights random. The largest private memory is
RssAnon of the process; pages of weights that stand in files are counted as RssFile, and the system may drop them. A merged model must give ONNX Runtime the logits that
the unmerged one gives, within 1e-3 of the largest.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages
import scale

BLOCK = 32
STEPS, ROWS, LENGTH = 2, 1, 64
LARGEST_DIFFERENCE = 1e-3


class Decoder(scale.Decoder):
    """The decoder of scale.py, its weights written to files of at most `largest` bytes."""

    def __init__(self, folder, largest, *shape):
        self.folder, self.largest, self.random, self.files = folder, largest, np.random.default_rng(1), 0
        self.file, self.stored = None, 0
        super().__init__(*shape)
        self.file.close()

    def weight(self, name, dims):
        spread = 0.02 if len(dims) == 2 else 0.0
        values = self.random.standard_normal(dims, np.float32) * np.float32(spread) + np.float32(not spread)
        return self.keep(name, TensorProto.FLOAT, values)

    def keep(self, name, kind, values):
        """A tensor of external data."""
        if self.file is None or (self.end and self.end + values.nbytes > self.largest):
            if self.file:
                self.file.close()
            self.files, self.end = self.files + 1, 0
            self.file = open(self.folder / f"model.onnx.data.{self.files}", "wb")
        tensor = TensorProto(name=name, data_type=kind, dims=values.shape, data_location=TensorProto.EXTERNAL)
        place = [("location", f"model.onnx.data.{self.files}"), ("offset", str(self.end)), ("length", str(values.nbytes))]
        for key, value in place:
            tensor.external_data.add(key=key, value=value)
        self.file.write(values.tobytes())
        self.end, self.stored = self.end + values.nbytes, self.stored + values.nbytes
        self.constants.append(tensor)
        return name

    def write(self, folder):
        graph = helper.make_graph(self.nodes, "main_graph", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])],
                                  [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", None])], self.constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        (folder / "model.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


class PackedDecoder(Decoder):
    """The same with every projection a MatMulNBits of 4 bits, in blocks of 32 with zero points."""

    def linear(self, x, module, rows, columns, output=None):
        blocks = rows // BLOCK
        values = self.keep(f"{module}.weight_Q4", TensorProto.UINT8, self.random.integers(0, 256, (columns, blocks, BLOCK // 2), np.uint8))
        scales = self.keep(f"{module}.weight_scales", TensorProto.FLOAT, np.full(columns * blocks, 0.005, np.float32))
        zeros = self.keep(f"{module}.weight_zp", TensorProto.UINT8, np.full((columns, (blocks + 1) // 2), 0x88, np.uint8))
        return self.node("MatMulNBits", [x, values, scales, zeros], self.scope(module), output=output, domain="com.microsoft", K=rows, N=columns, bits=4,
                         block_size=BLOCK)


# Name, class, largest file, shape: layers, hidden, inner, heads, vocabulary.
MODELS = [
    ("24 layers of 1024, 4 bits", PackedDecoder, 1 << 40, (24, 1024, 2816, 16, 8192)),
    ("24 layers of 1536, float32, one file", Decoder, 1 << 40, (24, 1536, 4096, 16, 8192)),
    ("24 layers of 1536, float32, files of 1 GB", Decoder, 1 << 30, (24, 1536, 4096, 16, 8192)),
]


def in_float32(layers, hidden, inner, heads, vocabulary):
    """Bytes of the matrices."""
    return 4 * (layers * (4 * hidden * hidden + 3 * hidden * inner) + 2 * vocabulary * hidden)


def peak(*command):
    """What a command printed, and its largest private memory in bytes."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = [0]

    def watch():
        while process.poll() is None:
            most[0] = max(most[0], scale.private_memory(process.pid))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, errors = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {errors}")
    return out, most[0]


def logits(file, ids):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]).run(["logits"], {"input_ids": ids})[0]


def row(binary, name, make, largest, shape, folder):
    decoder = make(folder, largest, *shape)
    decoder.write(folder)
    model, bundle, merged, data = folder / "model.onnx", folder / "bundle", folder / "out/merged.onnx", folder / "train.jsonl"
    tokens = [int(token) for token in np.random.default_rng(2).integers(0, shape[-1], LENGTH)]
    data.write_text((json.dumps({"input_ids": tokens, "attention_mask": [1] * LENGTH, "labels": tokens}) + "\n") * ROWS)
    _, inject = peak(binary, "inject", model, "--method", "lora", "--rank", "8", "--target-modules", "q_proj,v_proj", "-o", bundle)
    _, train = peak(binary, "train", bundle, "--data", data, "--batch-size", ROWS, "--max-steps", STEPS, "--learning-rate", "1e-2", "--quiet")
    losses = [json.loads(line)["loss"] for line in (bundle / "metrics.jsonl").read_text().splitlines()]
    merged.parent.mkdir()
    _, merge = peak(binary, "merge", bundle, "-o", merged, "--no-verify", "--quiet")
    ids = np.array([tokens[:9]])
    base, with_adapter, folded = (logits(file, ids) for file in (model, bundle / "inference.onnx", merged))
    most = float(np.abs(with_adapter).max())
    apart, moved = float(np.abs(folded - with_adapter).max()) / most, float(np.abs(base - with_adapter).max()) / most
    far = max((int(entry.value) for tensor in onnx.load(merged, load_external_data=False).graph.initializer for entry in tensor.external_data
               if entry.key == "offset"), default=0)
    if apart > LARGEST_DIFFERENCE or not moved > apart or losses[-1] >= losses[0]:
        sys.exit(f"{name}: merged against unmerged {apart:.1e}, the adapter moves logits by {moved:.1e}, losses {losses}")
    size = sum(file.stat().st_size for file in merged.parent.iterdir())
    cells = [name, decoder.files, *(f"{count / 1e6:.0f} MB" for count in (decoder.stored, inject, train, merge, size)), f"{far / 1e6:.0f} MB", f"{apart:.0e}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def section(options):
    lines = [
        "## Large models",
        "",
        f"Generated decoders with random weights, on {pages.cpu()}, by `python scripts/bench/large.py`: LoRA of rank 8 on `q_proj` and `v_proj`, {STEPS} steps of {ROWS} x"
        f" {LENGTH} tokens, merged.",
        "Largest private memory of each command; weights are read from their files, not copied. The last columns: where the merged file's last tensor begins, and how far",
        f"the merged model's logits are from the unmerged one's in ONNX Runtime. The weights of 4 bits would be {in_float32(*MODELS[0][3]) / 1e6:.0f} MB in float32.",
        "",
        "| model | files | weights | inject | train | merge | merged | last offset | merged against unmerged |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, make, largest, shape in MODELS:
        if options.only in name:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                lines.append(row(options.binary, name, make, largest, shape, pathlib.Path(folder)))
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", help="where the models are written, for as long as they are used")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    text = section(options)
    if options.write:
        pages.put(options.write, "large.py", text)


if __name__ == "__main__":
    main()
