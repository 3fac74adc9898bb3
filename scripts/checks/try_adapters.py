"""Switches adapters run by run with ONNX Runtime's own LoraAdapter: one model, several .onnx_adapter files.

    python scripts/checks/try_adapters.py --model FIXTURE.onnx --adapters DIR DIR... [--binary target/release/peft-onnx]
    python scripts/checks/try_adapters.py --every-method                             (two adapters of each method, trained on a fixture model)

The first adapter is injected into the model; each is exported as an .onnx_adapter and activated on that bundle's inference graph. The logits must be
those of a bundle of the adapter's own, another adapter's must be others, and AdapterFormat must read back what is in the PEFT file. Exits with 1 where that
fails. Needs onnxruntime, numpy, safetensors.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from onnx_inputs import feeds, probe


def run(binary, *args):
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, args))}\n{done.stderr}")


def read_back(path, folder, bundle):
    """What ONNX Runtime reads from an adapter file is what the PEFT file has, but for what is never trained."""
    parameters = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
    inputs = {slot["name"]: slot["input"] for slot in json.loads((bundle / "peft-onnx.json").read_text())["trainable"]}
    tensors = {inputs.get(key, key): value for key, value in load_file(folder / "adapter_model.safetensors").items() if ".vera_A" not in key and ".vera_B" not in key}
    assert sorted(parameters) == sorted(tensors), (sorted(parameters), sorted(tensors))
    for name, value in parameters.items():
        np.testing.assert_array_equal(value.numpy(), tensors[name])
    return len(parameters)


def switched(binary, model, adapters, x, work):
    """How many inputs each adapter has, one after the other."""
    run(binary, "inject", model, "--adapter", adapters[0], "-o", work / "shared")
    shared = onnxruntime.InferenceSession(work / "shared/inference.onnx", providers=["CPUExecutionProvider"])
    seen = []
    for place, folder in enumerate(adapters):
        own, file = work / f"own{place}", work / f"{place}.onnx_adapter"
        run(binary, "inject", model, "--adapter", folder, "-o", own)
        run(binary, "export", work / "shared", "--format", "onnx_adapter", "--adapter", folder, "-o", file)
        count = read_back(file, folder, work / "shared")
        adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
        adapter.Load(str(file))
        options.add_active_adapter(adapter)
        found = shared.run(["logits"], feeds(shared, x), options)[0]
        session = onnxruntime.InferenceSession(own / "inference.onnx", providers=["CPUExecutionProvider"])
        wanted = session.run(["logits"], feeds(session, x))[0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert all(np.abs(found - other).max() > 1e-4 for other in seen), "the adapters do not differ"
        seen.append(found)
        yield count


def every_method(binary, x):
    from check_methods import FIXTURES, LLAMA, METHODS
    model, data = FIXTURES / LLAMA[0] / f"{LLAMA[1]}.onnx", FIXTURES / LLAMA[2] / "train.jsonl"
    for method in METHODS:
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            folders = [work / "a", work / "b"]
            for rate, folder in zip(("0.01", "0.05"), folders):
                run(binary, "inject", model, "--method", *method, "-o", folder)
                run(binary, "train", folder, "--data", data, "--batch-size", "3", "--max-steps", "8", "--learning-rate", rate, "--quiet")
            counts = list(switched(binary, model, folders, x, work))
            print(f"{' '.join(method)}: {counts[0]} inputs, logits as in bundles of their own", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--adapters", nargs="+", default=[], type=pathlib.Path)
    parser.add_argument("--every-method", action="store_true")
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--vocabulary", type=int, default=64)
    args = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    x = probe(args.vocabulary, (11, 5, 8))
    if args.every_method:
        return every_method(args.binary, x)
    if not args.model or not args.adapters:
        parser.error("--model and --adapters, or --every-method")
    with tempfile.TemporaryDirectory() as work:
        for folder, count in zip(args.adapters, switched(args.binary, args.model, args.adapters, x, pathlib.Path(work))):
            print(f"{folder}: {count} inputs, logits as in a bundle of its own")


if __name__ == "__main__":
    main()
