"""Where a training step's time goes: what it must compute, how fast this machine multiplies matrices, and which operators take the rest.

    python scripts/bench/roofline.py BUNDLE MODEL_FOLDER [--batch 2] [--length 128] [--threads 2] [--runs 6] [--json]

Needs onnx and onnxruntime. The bundle's training graph is opened as the program opens it (src/ort/settings.rs), and runs on random tokens, all labelled. The
peak is that of a product of two float32 matrices in the same process, by ONNX Runtime itself, the best of several shapes. A step's share of the peak is the
time that its products would take at the peak, over the time that it takes. The profile is ONNX Runtime's own; each node counts with its least time over
the runs, as another program on the machine makes it slower, never faster; waiting is what a step takes beside its nodes.
"""
import argparse
import collections
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRODUCTS = {"MatMul", "FusedMatMul", "Gemm"}
KINDS = ["products", "elementwise", "softmax", "sums", "layout", "loss", "optimizer", "waiting"]
LAYOUT = {"Reshape", "Transpose", "Slice", "Concat", "Pad", "Split", "Unsqueeze", "Squeeze", "Expand", "Gather", "Flatten", "Shape", "Tile", "ScatterND", "GatherND"}
SUMS = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceSumSquare", "LayerNormalization", "SimplifiedLayerNormalization"}
SHAPES = [(256, 576, 576), (256, 1024, 1024), (1024, 1024, 1024)]
NUMPY = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(bool)": np.bool_}


def options(threads, profile=None):
    """A session's options as src/ort/settings.rs has them for training on the processor, and the optimizers it does without."""
    made = ort.SessionOptions()
    made.intra_op_num_threads, made.log_severity_level, made.enable_mem_pattern = threads, 4, False
    for name, value in {"optimization.constant_folding_max_output_size_in_bytes": "65536", "session.disable_quant_qdq": "1",
                        "session.disable_qdq_constant_folding": "1", "session.x64quantprecision": "1", "session.disable_prepacking": "1"}.items():
        made.add_session_config_entry(name, value)
    if profile:
        made.enable_profiling, made.profile_file_prefix = True, str(profile)
    text = re.search(r'NOT_IN_TRAINING: &str = "(.*?)";', (ROOT / "src/ort/settings.rs").read_text(), re.S).group(1)
    return made, re.sub(r"[\\\s]", "", text).split(";")


def peak(threads, runs=12):
    """The float32 operations a second that a product of matrices reaches here: the median of its runs, for the best of the shapes."""
    best = 0.0
    for rows, inner, columns in SHAPES:
        tensors = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("a", [rows, inner]), ("b", [inner, columns]), ("c", [rows, columns]))]
        graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "peak", tensors[:2], tensors[2:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        made = ort.SessionOptions()
        made.intra_op_num_threads = threads
        session = ort.InferenceSession(model.SerializeToString(), made)
        binding = session.io_binding()
        for name, shape in (("a", (rows, inner)), ("b", (inner, columns))):
            binding.bind_cpu_input(name, np.random.rand(*shape).astype(np.float32))
        binding.bind_output("c")
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            times.append(time.perf_counter() - start)
        best = max(best, 2.0 * rows * inner * columns / statistics.median(times))
    return best


def opened(folder, threads, profile=None):
    made, without = options(threads, profile)
    return ort.InferenceSession(str(folder / "training.onnx"), made, disabled_optimizers=without)


def fed(session, batch, length):
    """Values for all inputs: random tokens, all labelled; the adapter's numbers near zero."""
    random = np.random.default_rng(0)
    feeds = {}
    for port in session.get_inputs():
        shape = [axis if isinstance(axis, int) else None for axis in port.shape]
        if None in shape or not shape:
            shape = [batch, length][: len(shape)]
        if port.name in ("input_ids", "labels"):
            value = random.integers(10, 1000, shape) if len(shape) == 2 else random.integers(0, 2, shape)
        elif port.name == "position_ids":
            value = np.tile(np.arange(length), (batch, 1))
        elif port.name == "trainable":
            value = random.normal(0, 0.02, shape)
        elif port.name == "learning_rate":
            value = np.full(shape, 1e-4)
        elif port.name in ("attention_mask", "step"):
            value = np.ones(shape)
        else:
            value = np.zeros(shape)
        feeds[port.name] = value.astype(NUMPY[port.type])
    return feeds


def kind(event, inside_loop):
    op, name = event["args"]["op_name"], event["name"]
    if name.startswith("adamw/"):
        return "optimizer"
    if inside_loop:
        return "loss"
    if op in PRODUCTS:
        return "products"
    if op in ("Softmax", "LogSoftmax") or "Softmax/" in name:
        return "softmax"
    if name.startswith("loss/"):
        return "loss"
    return "layout" if op in LAYOUT else "sums" if op in SUMS else "elementwise"


def operations(event):
    """Floating-point operations of a product, from the shapes that it had."""
    if event["args"]["op_name"] not in PRODUCTS:
        return 0
    (a, *_), (out, *_) = ([list(tensor.values())[0] for tensor in event["args"][f"{which}_type_shape"]] for which in ("input", "output"))
    return 2 * math.prod(a) * out[-1] if math.prod(out) else 0


def profiled(file):
    """Of a profile: operations of a run's products, and seconds of each kind."""
    events = [event for event in json.loads(pathlib.Path(file).read_text()) if "dur" in event]
    runs = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run"][1:]
    least, counted = collections.defaultdict(dict), {}
    loops = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("args", {}).get("op_name") in ("Scan", "Loop")]
    for event in (event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")):
        found = [number for number, (start, end) in enumerate(runs) if start <= event["ts"] <= end]
        if not found or event["args"]["op_name"] in ("Scan", "Loop"):
            continue
        inside = any(start <= event["ts"] and event["ts"] + event["dur"] <= end for start, end in loops)
        key = (event["name"], event["args"].get("node_index"), inside)
        seen = least[key].setdefault(found[0], [0, 0])
        seen[0] += event["dur"]
        seen[1] += operations(event)
        counted[key] = event
    seconds, total = dict.fromkeys(KINDS, 0.0), 0
    for key, by in least.items():
        kind_of = kind(counted[key], key[2])
        # Products inside the loss's loop are the head's.
        kind_of = "products" if counted[key]["args"]["op_name"] in PRODUCTS else kind_of
        seconds[kind_of] += min(duration for duration, _ in by.values()) / 1e6
        total += max(flops for _, flops in by.values())
    return total, seconds


def measured(bundle, base, batch, length, threads, runs=6):
    """The peak, a step's seconds and operations, and seconds of each kind."""
    with tempfile.TemporaryDirectory(dir=bundle) as folder:
        folder = pathlib.Path(folder)
        (folder / "base").mkdir()
        # ONNX Runtime reads no weights through a link that leaves the model's folder.
        for file in pathlib.Path(base).iterdir():
            if file.is_file():
                os.link(file, folder / "base" / file.name)
        for file in pathlib.Path(bundle).glob("training.*"):
            shutil.copy(file, folder)
        best = peak(threads)
        session = opened(folder, threads)
        feeds, times = fed(session, batch, length), []
        for _ in range(runs + 1):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
        del session
        session = opened(folder, threads, folder / "profile")
        for _ in range(runs + 1):
            session.run(None, feeds)
        total, seconds = profiled(session.end_profiling())
        best = max(best, peak(threads))
    step = statistics.median(times[1:])
    seconds["waiting"] = max(min(times[1:]) - sum(seconds.values()), 0.0)
    return {"peak": best, "step": step, "least": min(times[1:]), "operations": total, "seconds": seconds}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=pathlib.Path), p.add_argument("base", type=pathlib.Path)
    p.add_argument("--batch", type=int, default=2), p.add_argument("--length", type=int, default=128)
    p.add_argument("--threads", type=int, default=2), p.add_argument("--runs", type=int, default=6)
    p.add_argument("--json", action="store_true")
    opt = p.parse_args()
    found = measured(opt.bundle, opt.base, opt.batch, opt.length, opt.threads, opt.runs)
    if opt.json:
        return print(json.dumps(found))
    share = found["operations"] / found["peak"] / found["step"]
    print(f"{found['operations'] / 1e9:.1f} GFLOP a step, peak {found['peak'] / 1e9:.0f} GFLOP/s, a step {found['step']:.3f} s: {share:.2f} of the peak")
    for name, seconds in found["seconds"].items():
        print(f"{name:12} {seconds * 1000:8.1f} ms  {seconds / sum(found['seconds'].values()):.0%}")


if __name__ == "__main__":
    main()
