"""Runs inspect and inject over mutated models: no panic, no hang, no unbounded memory.

    python scripts/checks/fuzz_models.py [--binary target/release/peft-onnx] [--runs 500] [--seed 1]

Needs the package onnx. Each run takes one of the exports in models/fixtures and changes it at a few random places: operators, attributes,
inputs, outputs, shapes, types, constants, nodes left out or doubled. peft-onnx may refuse the result, with an error and a hint; it must
end with exit code 0 or 1 within the time and the memory it is given. Models that do not are kept in --keep.
"""

import argparse
import pathlib
import random
import resource
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import helper, numpy_helper

SECONDS, MEMORY = 60, 2 << 30
ODD_INTEGERS = [-(2**63), -(2**31), -3, -1, 0, 1, 2, 7, 255, 2**31, 2**40, 2**63 - 1]


def constants(model):
    return [t for t in model.graph.initializer if not t.external_data]


def another_operator(model, pick):
    nodes = model.graph.node
    pick.choice(nodes).op_type = pick.choice(nodes).op_type


def another_domain(model, pick):
    pick.choice(model.graph.node).domain = pick.choice(["", "com.microsoft", "ai.onnx.ml", "acme", "ai.onnx"])


def another_attribute(model, pick):
    node = pick.choice([n for n in model.graph.node if n.attribute] or [None])
    if node is None:
        return
    attribute = pick.choice(node.attribute)
    kind = pick.randrange(5)
    name = attribute.name
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.CopyFrom(helper.make_attribute(name, pick.choice(ODD_INTEGERS)))
    elif kind == 2:
        attribute.CopyFrom(helper.make_attribute(name, [pick.choice(ODD_INTEGERS) for _ in range(pick.randrange(1, 6))]))
    elif kind == 3:
        attribute.CopyFrom(helper.make_attribute(name, pick.choice([float("nan"), -1.0, 1e30])))
    else:
        attribute.CopyFrom(helper.make_attribute(name, pick.choice(["", "reflect", "\u00e9", "x" * 1000])))


def new_attribute(model, pick):
    name = pick.choice(["axis", "perm", "axes", "to", "transA", "keepdims", "value", "block_size", "equation", "num_heads", "group"])
    value = pick.choice([pick.choice(ODD_INTEGERS), [0, 1, 2, 3], [0, 0], "ij,jk", 1.5])
    node = pick.choice(model.graph.node)
    if all(a.name != name for a in node.attribute):
        node.attribute.append(helper.make_attribute(name, value))


def another_input(model, pick):
    node = pick.choice([n for n in model.graph.node if n.input])
    names = [o for n in model.graph.node for o in n.output] + [t.name for t in model.graph.initializer] + ["", "nobody"]
    at = pick.randrange(len(node.input))
    kind = pick.randrange(3)
    if kind == 0:
        node.input[at] = pick.choice(names)
    elif kind == 1:
        del node.input[at]
    else:
        node.input.append(pick.choice(names))


def another_output(model, pick):
    node = pick.choice(model.graph.node)
    if pick.random() < 0.5 and len(node.output) > 0:
        del node.output[pick.randrange(len(node.output))]
    else:
        node.output.append(pick.choice(["", "more", node.output[0] if node.output else "first"]))


def another_node(model, pick):
    at = pick.randrange(len(model.graph.node))
    if pick.random() < 0.5:
        del model.graph.node[at]
    else:
        model.graph.node.add().CopyFrom(model.graph.node[at])


def another_constant(model, pick):
    tensor = pick.choice(constants(model))
    array = numpy_helper.to_array(tensor)
    kind = pick.randrange(5)
    if kind == 0 and array.dtype == np.int64:
        array = np.array([pick.choice(ODD_INTEGERS) for _ in range(array.size)], np.int64).reshape(array.shape)
    elif kind == 1:
        array = array.reshape(-1)[: pick.randrange(array.size + 1)]
    elif kind == 2:
        array = array.reshape((1,) * pick.randrange(1, 4) + array.shape)
    elif kind == 3:
        array = array.astype(pick.choice([np.float16, np.float64, np.int8, np.int32, np.bool_]))
    else:
        tensor.dims[:] = [pick.choice(ODD_INTEGERS) for _ in tensor.dims]
        return
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def another_shape(model, pick):
    info = pick.choice(list(model.graph.input) + list(model.graph.output) + list(model.graph.value_info))
    tensor = info.type.tensor_type
    kind = pick.randrange(4)
    if kind == 0:
        tensor.elem_type = pick.choice([0, 1, 2, 6, 7, 8, 9, 10, 11, 16, 21, 22, 99])
    elif kind == 1:
        tensor.ClearField("shape")
    elif kind == 2:
        tensor.shape.dim.add().dim_value = pick.choice(ODD_INTEGERS)
    elif len(tensor.shape.dim):
        dim = pick.choice(tensor.shape.dim)
        if pick.random() < 0.5:
            dim.dim_value = pick.choice(ODD_INTEGERS)
        else:
            dim.dim_param = pick.choice(["", "batch", "a*b + 1", "?", "seq - seq", "x" * 300])


def another_version(model, pick):
    model.opset_import[0].version = pick.choice([-1, 0, 1, 7, 9, 11, 13, 17, 18, 21, 26, 99])
    model.ir_version = pick.choice([0, 3, 4, 8, 13, 99])


def another_name(model, pick):
    node = pick.choice(model.graph.node)
    node.name = pick.choice(["", "/" * 50, "a.b..c", "\u00e9\u0000", "model.layers.99999999999999999999.x", node.name + "/" + node.name])


def a_loop(model, pick):
    node = pick.choice([n for n in model.graph.node if n.input and n.output])
    later = pick.choice(model.graph.node)
    if later.output:
        node.input[0] = later.output[0]


CHANGES = [another_operator, another_domain, another_attribute, new_attribute, another_input, another_output, another_node]
CHANGES += [another_constant, another_shape, another_version, another_name, a_loop]
METHODS = ["lora", "lora", "lora", "ia3", "prompt_tuning", "prefix_tuning", "head"]


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def ends_well(command):
    """What is wrong with how a command ended; nothing if it did its work or said why not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, preexec_fn=limited)
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stderr.lstrip().startswith(("error:", "WARN", "\x1b")) and "panicked" not in done.stderr:
        return None
    return f"exit code {done.returncode}: {done.stderr.strip()[-600:]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for models that went wrong")
    options = parser.parse_args()
    fixtures = pathlib.Path(__file__).resolve().parents[2] / "models/fixtures"
    models = [path for path in sorted(fixtures.rglob("*.onnx")) if "external" not in path.name]
    originals = [(path, onnx.load(str(path))) for path in models]
    wrong, accepted = [], 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for run in range(options.seed, options.seed + options.runs):
            pick = random.Random(run)
            path, original = pick.choice(originals)
            model = onnx.ModelProto()
            model.CopyFrom(original)
            changes = [pick.choice(CHANGES) for _ in range(pick.choice([1, 1, 1, 2, 3, 6]))]
            for change in changes:
                try:
                    change(model, pick)
                except (ValueError, IndexError, TypeError, OverflowError):
                    pass
            mutated = folder / "model.onnx"
            mutated.write_bytes(model.SerializeToString())
            inject = [options.binary, "inject", str(mutated), "--method", pick.choice(METHODS), "-o", str(folder / "bundle"), "--force"]
            for command in ([options.binary, "inspect", str(mutated), "--ops", "--explain", "--json"], inject):
                problem = ends_well(command)
                if problem:
                    what = ", ".join(change.__name__ for change in changes)
                    wrong.append(f"seed {run}: {command[1]} {path.relative_to(fixtures)} with {what}: {problem}")
                    print(wrong[-1], flush=True)
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{run}.onnx").write_bytes(mutated.read_bytes())
            accepted += (folder / "bundle/training.onnx").exists()
            subprocess.run(["rm", "-rf", str(folder / "bundle")], check=True)
    print(f"{options.runs} mutated models: {accepted} injected, the others refused with a reason; {len(wrong)} ended otherwise")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
