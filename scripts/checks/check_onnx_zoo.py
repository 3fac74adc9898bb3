"""Runs peft-onnx over every model of the onnx package's own tests: node tests, and the models in onnx/backend/test/data.

    python scripts/checks/check_onnx_zoo.py [--binary target/release/peft-onnx] [--write docs/ZOO.md] [--only NAME]

Needs the packages onnx and numpy. Each model is
  inspected      it must be read, or refused with a reason; a panic is a failure;
  inferred       read without what its file claims of inner values and outputs; types and shapes that peft-onnx tells must be those of
                 onnx.shape_inference, of the file, and of the test's own outputs, as far as those tell;
  written back   `peft-onnx convert`; every node, attribute, constant, input, output and annotation must be there again.
Ends with exit code 1 if anything disagrees.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference


def models(only):
    """(family, name, model, outputs of the test by name), one after the other."""
    data = pathlib.Path(onnx.__file__).parent / "backend/test/data"
    for path in sorted(data.rglob("*.onnx")):
        name = "/".join(path.relative_to(data).parts[1:])
        if only in name:
            yield path.relative_to(data).parts[0], name, onnx.load(str(path)), {}
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is None or only not in case.name:
            continue
        outputs = {}
        for _, expected in case.data_sets or []:
            for info, array in zip(case.model.graph.output, expected):
                if isinstance(array, np.ndarray):
                    outputs[info.name] = list(array.shape)
        yield "node", case.name, case.model, outputs


def run(binary, *arguments):
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120)


# What a message says, whatever its encoding.


def tensor(proto):
    if proto.data_type == TensorProto.STRING:
        data = tuple(proto.string_data)
    else:
        # The bytes, not the numbers: some are NaN.
        data = numpy_helper.to_array(proto).tobytes()
    notes = tuple(sorted((p.key, p.value) for p in proto.metadata_props))
    return ("tensor", proto.name, proto.data_type, tuple(proto.dims), data, proto.doc_string, notes)


def attribute(proto):
    kind = proto.type
    if proto.ref_attr_name:
        return (proto.name, "ref", proto.ref_attr_name)
    field = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints", 8: "strings"}.get(kind)
    if field:
        value = getattr(proto, field)
        value = tuple(value) if field.endswith("s") and field != "s" else value
        # NaN is not itself.
        return (proto.name, kind, repr(value))
    parts = {4: [proto.t], 5: [proto.g], 9: proto.tensors, 10: proto.graphs}.get(kind)
    if parts is not None:
        return (proto.name, kind, tuple(tensor(p) if kind in (4, 9) else graph(p) for p in parts))
    return (proto.name, kind, proto.SerializeToString())


def properties(proto):
    return tuple(sorted((p.key, p.value) for p in proto.metadata_props))


def node(proto):
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    inputs = list(proto.input)
    attributes = tuple(sorted((attribute(a) for a in proto.attribute), key=lambda a: a[0]))
    outputs = tuple(proto.output)
    return (proto.op_type, domain, proto.overload, proto.name, tuple(inputs), outputs, attributes, proto.doc_string, properties(proto))


def info(proto):
    return (proto.name, proto.type.SerializeToString(deterministic=True), proto.doc_string, properties(proto))


def by_name(items, key=lambda item: item[0]):
    return tuple(sorted(items, key=key))


def graph(proto, listed=False):
    constants = [tensor(t) for t in proto.initializer]
    names = {t.name for t in proto.initializer} if listed else set()
    return (
        proto.name,
        tuple(info(i) for i in proto.input if i.name not in names),
        # Where files listed constants among the inputs, their order told nothing.
        by_name(info(i) for i in proto.input if i.name in names),
        tuple(info(o) for o in proto.output),
        by_name((info(v) for v in proto.value_info)),
        by_name(constants, lambda t: t[1]),
        tuple(sorted(s.SerializeToString(deterministic=True) for s in proto.sparse_initializer)),
        by_name((node(n) for n in proto.node), lambda n: (n[5], n[0])),
        tuple(sorted(q.SerializeToString(deterministic=True) for q in proto.quantization_annotation)),
        proto.doc_string,
        properties(proto),
    )


def meaning(model):
    domains = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    rest.ClearField("opset_import")
    return (tuple(sorted(domains.items())), rest.SerializeToString(deterministic=True), graph(model.graph, model.ir_version < 4))


def first_difference(left, right, at="model"):
    if type(left) is not type(right):
        return f"{at}: {left!r:.80} / {right!r:.80}"
    if isinstance(left, tuple):
        if len(left) != len(right):
            return f"{at}: {len(left)} and {len(right)} parts"
        for place, (a, b) in enumerate(zip(left, right)):
            if a != b:
                return first_difference(a, b, f"{at}.{place}")
        return None
    return None if left == right else f"{at}: {left!r:.80} / {right!r:.80}"


# What is known of values.


def without_claims(model):
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.ClearField("type")
    return bare


def claims(infos):
    """Type code and lengths (None where unknown) of each value that is a tensor."""
    told = {}
    for value in infos:
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        tensor_type = value.type.tensor_type
        shape = None
        if tensor_type.HasField("shape"):
            shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim]
        told[value.name] = (tensor_type.elem_type, shape)
    return told


def reference(model, outputs):
    """What ONNX's inference, the file and the test tell of every value."""
    told = {}
    try:
        inferred = shape_inference.infer_shapes(without_claims(model), data_prop=True)
        told.update(claims(inferred.graph.value_info))
        told.update({name: claim for name, claim in claims(inferred.graph.output).items() if claim[0]})
    except Exception:  # noqa: BLE001: models whose operators onnx itself refuses
        pass
    for name, (code, shape) in claims(model.graph.output).items():
        have_code, have = told.get(name, (0, None))
        told[name] = (code or have_code, merged(shape, have))
    for name, shape in outputs.items():
        code, have = told.get(name, (0, None))
        told[name] = (code, merged([int(n) for n in shape], have))
    return told


def merged(shape, other):
    if shape is None or other is None or len(shape) != len(other):
        return shape if shape is not None else other
    return [a if a is not None else b for a, b in zip(shape, other)]


def number(text):
    return int(text) if text.lstrip("-").isdigit() else None


def compare(told, known, count):
    """Notes how a value's fact compares; returns what disagrees."""
    code, shape = told
    count["values"] += 1
    name = known["dtype"]
    wanted = onnx.TensorProto.DataType.Name(code).lower() if code else None
    if name is None:
        count["type unknown"] += wanted is not None
    elif wanted and name != wanted:
        return f"type {name}, expected {wanted}"
    if shape is None:
        count["shape beyond the reference"] += known["shape"] is not None
        return None
    if known["shape"] is None:
        count["rank unknown"] += 1
        return None
    ours = [number(length) for length in known["shape"]]
    if len(ours) != len(shape) or any(a is not None and b is not None and a != b for a, b in zip(ours, shape)):
        return f"shape {known['shape']}, expected {shape}"
    unknown = [a is None and known["shape"][i] == "?" and b is not None for i, (a, b) in enumerate(zip(ours, shape))]
    count["length unknown"] += any(unknown)
    count["same shape"] += not any(unknown)
    return None


def check(binary, family, name, model, outputs):
    """Everything about one model: counts, and what is wrong."""
    count, wrong = collections.Counter(models=1), []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        original, bare, back = folder / "model.onnx", folder / "bare.onnx", folder / "back.onnx"
        original.write_bytes(model.SerializeToString())
        bare.write_bytes(without_claims(model).SerializeToString())
        shown = run(binary, "inspect", str(original), "--ops", "--explain")
        if shown.returncode not in (0, 1) or "panicked" in shown.stderr:
            return count, [f"{family}/{name}: exit code {shown.returncode}: {shown.stderr[:300]}"]
        if shown.returncode == 1:
            return count, [f"{family}/{name}: not read: {shown.stderr.strip()[:300]}"]
        count["read"] += 1
        inferred = run(binary, "inspect", str(bare), "--values", "--json")
        if inferred.returncode:
            wrong.append(f"{family}/{name}: not inferred: {inferred.stderr.strip()[:300]}")
        else:
            facts = {value["name"]: value for value in json.loads(inferred.stdout)["values"]}
            disagree = []
            for value, told in reference(model, outputs).items():
                if value in facts:
                    problem = compare(told, facts[value], count)
                    if problem:
                        disagree.append(f"{family}/{name}: {value}: {problem}")
            wrong += disagree
            count["agree"] += not disagree
        written = run(binary, "convert", str(original), "-o", str(back))
        if written.returncode:
            wrong.append(f"{family}/{name}: not written: {written.stderr.strip()[:300]}")
        else:
            difference = first_difference(meaning(model), meaning(onnx.load(str(back))))
            if difference:
                wrong.append(f"{family}/{name}: written back otherwise: {difference}")
            else:
                count["written back"] += 1
    return count, wrong


COLUMNS = ["models", "read", "agree", "written back"]
VALUES = ["values", "same shape", "length unknown", "rank unknown", "type unknown", "shape beyond the reference"]


def page(counts, wrong):
    lines = [
        "# ONNX's own models",
        "",
        "<!-- Made by scripts/checks/check_onnx_zoo.py --write docs/ZOO.md -->",
        "",
        f"peft-onnx over every model of the tests in the Python package onnx {onnx.__version__}: how many are read, how many have types and",
        "shapes that contradict neither ONNX's inference nor the file nor the test's outputs, and how many are the same when written back.",
        "",
        "| tests | models | read | types and shapes agree | the same when written back |",
        "|---|---|---|---|---|",
    ]
    total = collections.Counter()
    for family in sorted(counts):
        total.update(counts[family])
        lines.append(f"| {family} | " + " | ".join(str(counts[family][column]) for column in COLUMNS) + " |")
    lines.append("| all | " + " | ".join(str(total[column]) for column in COLUMNS) + " |")
    lines += [
        "",
        f"Of {total['values']} values that the reference knows something of, {total['same shape']} have at least its shape here;"
        f" {total['length unknown']} have an axis",
        f"of unknown length, {total['rank unknown']} an unknown rank, {total['type unknown']} an unknown type."
        f" Of {total['shape beyond the reference']} others the shape is known here and not there.",
    ]
    if wrong:
        lines += ["", "What differs:", ""] + [f"* {line}" for line in wrong]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    counts, wrong = collections.defaultdict(collections.Counter), []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [(m[0], pool.submit(check, options.binary, *m)) for m in models(options.only)]
        for family, result in running:
            count, problems = result.result()
            counts[family].update(count)
            wrong += problems
    text = page(counts, wrong)
    print(text)
    if options.write:
        options.write.write_text(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
