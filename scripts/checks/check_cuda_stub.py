#!/usr/bin/env python3
"""What bundles make the CUDA provider do on the host: which nodes it leaves to the processor, what it copies, and where it waits. Nothing of this runs on a GPU.

    pip install onnxruntime-gpu onnx && python scripts/checks/check_cuda_stub.py PEFT_ONNX [--only NAME ..]

The provider is ONNX Runtime's own; the CUDA libraries are those of scripts/lib/cuda_stub.py, whose kernels do nothing. Placement, copies, waits, launches and allocations are what the
provider would do; losses are meaningless, and times say nothing of a GPU. Needs gcc, nm, readelf and no GPU.

Of each bundle: no graph has a node that waits for the GPU, no floats are copied between devices inside of one, a step waits only for what it tells (four times for each of its four numbers at most),
copies less than a tenth of a megabyte to the GPU, and rows of rising lengths take no more than a fifth more memory than the longest.
"""
import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts/lib"))
import cuda_stub  # noqa: E402

FIXTURES = ROOT / "models/fixtures"
FLOATS = {1, 10, 11, 16}  # float, float16, double, bfloat16
TOKENS = {"input_ids": [5, 9, 12, 3, 7, 11, 4, 8], "attention_mask": [1] * 8, "labels": [5, 9, 12, 3, 7, 11, 4, 8]}
STEPS = (4, 12)
# A step's loss, norm, whether it was made, and what of them the run asks for once more.
MOST_WAITS = 16
MOST_BYTES = 100_000

# name: model, options of inject, options of train
CASES = {
    "lora": ("llama/dynamo.onnx", ["--method", "lora"], []),
    "lora, all linear, layers computed again": ("llama/torchscript.onnx", ["--method", "lora", "--target-modules", "all-linear", "--recompute", "layer"], []),
    "lora, dropout": ("llama/dynamo.onnx", ["--method", "lora", "--dropout", "0.1"], []),
    "lora, attention in rounds": ("llama/dynamo.onnx", ["--method", "lora", "--recompute", "attention"], []),
    "lora, two batches a step": ("llama/dynamo.onnx", ["--method", "lora"], ["--gradient-accumulation-steps", "2"]),
    "dora": ("llama/optimum_cache.onnx", ["--method", "lora", "--use-dora"], []),
    "prefix tuning": ("llama/dynamo.onnx", ["--method", "prefix_tuning", "--num-virtual-tokens", "4", "--prefix-projection"], []),
    "prompt tuning": ("gpt2/torchscript.onnx", ["--method", "prompt_tuning", "--num-virtual-tokens", "4"], []),
    "p-tuning, LSTM": ("gpt2/dynamo.onnx", ["--method", "p_tuning", "--num-virtual-tokens", "4", "--encoder-reparameterization-type", "lstm"], []),
    "ia3": ("qwen2/torchscript.onnx", ["--method", "ia3"], []),
    "t5": ("t5/torchscript.onnx", ["--method", "lora"], []),
    "lora, bf16": ("llama/dynamo.onnx", ["--method", "lora", "--target-modules", "all-linear"], ["--precision", "bf16"]),
    "lora, fp16": ("llama/dynamo.onnx", ["--method", "lora", "--target-modules", "all-linear"], ["--precision", "fp16"]),
    "lora, tf32": ("llama/dynamo.onnx", ["--method", "lora"], ["--precision", "tf32"]),
    "dora, dropout, bf16": ("gpt2/dynamo.onnx", ["--method", "lora", "--use-dora", "--dropout", "0.1"], ["--precision", "bf16"]),
}


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def copies(graph, types=None):
    """The copies that ONNX Runtime put into a graph and its bodies: direction and element type."""
    types = {**(types or {}), **{value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input, *graph.output]}, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type.startswith("Memcpy"):
            yield node.op_type, types.get(node.output[0]) or types.get(node.input[0]), node.output[0]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from copies(attribute.g, types)


def placed(bundle, base):
    """What is wrong with where the nodes of a bundle's graphs are, and how many nodes each device has; in a process whose provider loads."""
    import onnx
    import onnxruntime

    shutil.copytree(base, bundle / "base", dirs_exist_ok=True)
    told = {}
    for file in sorted(bundle.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.optimized_model_filepath = str(bundle / "optimized" / file.name)
        (bundle / "optimized").mkdir(exist_ok=True)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CUDAExecutionProvider"], disabled_optimizers=["CommonSubexpressionElimination", "SkipLayerNormFusion", "FuseFp16InitializerToFp32NodeTransformer"])
        nodes = collections.Counter()
        for part in session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(list(part.get_nodes()))
        faults, counts = [], collections.Counter()
        for op, kind, name in copies(onnx.load(options.optimized_model_filepath, load_external_data=False).graph):
            counts[op] += 1
            if kind in FLOATS or op == "MemcpyToHost":
                faults.append(f"{op} of {name}, type {kind}")
        told[file.stem] = dict(cuda=nodes["CUDAExecutionProvider"], cpu=nodes["CPUExecutionProvider"], copies=dict(counts), faults=faults)
    return told


def counted(binary, library, stub, bundle, data, options, steps):
    """What a run of so many steps calls, by kind: calls and bytes."""
    work = bundle.with_name(f"{bundle.name}-{steps}")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(bundle, work)
    counts = work / "counts"
    env = {**os.environ, "LD_LIBRARY_PATH": str(stub), "CUDA_STUB_COUNTS": str(counts), "CUDA_STUB_NONZERO": "14"}
    run(binary, "train", work, "--onnxruntime", library, "--device", "cuda", "--data", data, "--max-steps", steps, "--no-shuffle", "-q", *options, env=env)
    rows = (line.split() for line in counts.read_text().splitlines())
    return {kind: (int(calls), int(size)) for kind, calls, size in rows}


def rising(binary, library, stub, bundle, work):
    """The memory that rows of rising lengths take, as a share of what as many of the longest take."""
    peaks = []
    for lengths in ([96] * 12, range(8, 104, 8)):
        rows = ({name: [5 + at % 20 if name != "attention_mask" else 1 for at in range(length)] for name in TOKENS} for length in lengths)
        data = work / "lengths.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        peaks.append(counted(binary, library, stub, bundle, data, ["--batch-size", "1"], len(lengths))["peak"][1])
    return peaks[1] / peaks[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    import onnxruntime

    capi = pathlib.Path(onnxruntime.__file__).parent / "capi"
    library = next(capi.glob("libonnxruntime.so.*"))
    wrong = []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        stub = cuda_stub.build(capi, work / "stub")
        data = work / "rows.jsonl"
        if "lora" in asked.only:
            run(asked.binary, "inject", FIXTURES / CASES["lora"][0], "-o", work / "rising", "-q", "--method", "lora")
            share = rising(asked.binary, library, stub, work / "rising", work)
            print(f"rows of rising lengths: {share:.2f} of the memory of the longest")
            if share > 1.2:
                wrong.append(f"rows of rising lengths: {share:.2f} of the memory of the longest, 1.2 at most")
        for name in asked.only:
            model, inject, train = CASES[name]
            data.write_text("".join(json.dumps(TOKENS) + "\n" for _ in range(32)))
            base, bundle = work / "base", work / "bundle"
            for folder in (base, bundle):
                shutil.rmtree(folder, ignore_errors=True)
            base.mkdir()
            shutil.copy(FIXTURES / model, base / "model.onnx")
            run(asked.binary, "inject", base / "model.onnx", "-o", bundle, "-q", *inject)
            few, many = (counted(asked.binary, library, stub, bundle, data, ["--batch-size", "2", *train], steps) for steps in STEPS)
            step = {kind: tuple((b - a) / (STEPS[1] - STEPS[0]) for a, b in zip(few[kind], many[kind])) for kind in many}
            place = json.loads(run(sys.executable, __file__, "--placed", bundle, base, env={**os.environ, "LD_LIBRARY_PATH": str(stub)}))
            wrong += [f"{name}: {graph}: {fault}" for graph, found in place.items() for fault in found["faults"]]
            waits = sum(step[kind][0] for kind in ("stream_wait", "device_wait", "event_wait"))
            if waits > MOST_WAITS:
                wrong.append(f"{name}: {waits:g} waits a step, {MOST_WAITS} at most")
            if step["host_to_device"][1] > MOST_BYTES:
                wrong.append(f"{name}: {step['host_to_device'][1]:g} bytes to the GPU a step, {MOST_BYTES} at most")
            print(f"{name}: " + ", ".join(f"{graph} {found['cuda']}/{found['cpu']}/{sum(found['copies'].values())}" for graph, found in place.items()))
            print("   a step: " + ", ".join(f"{kind} {calls:g}" + (f" ({size / 1e6:.3f} MB)" if size else "") for kind, (calls, size) in step.items() if calls) + f", waits {waits:g}", flush=True)
    for fault in wrong:
        print(f"WRONG {fault}")
    print(f"{len(asked.only)} bundles; kernels did nothing, and nothing ran on a GPU")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--placed"]:
        print(json.dumps(placed(*map(pathlib.Path, sys.argv[2:]))))
    else:
        main()
