"""Makes models/fixtures/<family>/{hf/,<export>.onnx}: tiny random transformers and the ONNX files that PyTorch's and optimum's exporters write of them.

    python scripts/make_fixtures.py [FAMILY...]

Made with torch 2.15, transformers 4.57, onnx 1.23, onnxscript 0.7, optimum-onnx 0.1, onnxruntime 1.32. The graphs are as the exporters wrote them, but
for one thing: of the dynamo exporter's node metadata the stack traces (paths of the machine), fx_node and class_hierarchy (longer than the weights) are
taken out; namespace and name_scopes stay. Each file is run and compared with PyTorch before it is kept.
"""
import functools
import sys

import families
from families import FAMILIES, FIXTURES, load

families.prepare()
import onnx  # noqa: E402

import exports  # noqa: E402

LARGEST_FILE = 300_000  # bytes
LEFT_OUT = ("stack_trace", "fx_node", "class_hierarchy")  # node metadata of the dynamo exporter
LARGEST_DIFFERENCE = 1e-5  # of the largest logit; float32 noise of two layers


def without_long_metadata(file):
    model = onnx.load(file, load_external_data=False)
    nodes = list(model.graph.node) + [node for function in model.functions for node in function.node]
    for node in nodes:
        kept = [p for p in node.metadata_props if p.key.rsplit(".")[-1] not in LEFT_OUT]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, file)


def dynamo(load, task, file, **options):
    exports.dynamo(load, task, file, **options)
    without_long_metadata(file)


EXPORTS = exports.EXPORTERS | {
    "torchscript_opset12": lambda *about: exports.torchscript(*about, opset=12),
    "dynamo": dynamo,
    "optimum_merged": exports.optimum_merged,
    "dynamo_external": lambda *about: dynamo(*about, external_data=True),
}


def main():
    for name in sys.argv[1:] or FAMILIES:
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        families.random_model(name).save_pretrained(folder / "hf")
        for export in FAMILIES[name].exports:
            file = folder / f"{export}.onnx"
            EXPORTS[export](functools.partial(load, name), FAMILIES[name].task, file)
            model, worst = onnx.load(file, load_external_data=False), exports.difference(load(name), FAMILIES[name].task, file)
            sizes = [f.stat().st_size for f in folder.glob(f"{export}.onnx*")]
            opset = next(o.version for o in model.opset_import if not o.domain)
            print(f"{name}/{export}: opset {opset}, {len(model.graph.node)} nodes, {sizes} bytes, difference {worst:.1e}", flush=True)
            if max(sizes) > LARGEST_FILE or worst > LARGEST_DIFFERENCE:
                sys.exit(f"{file}: too large or too different")


if __name__ == "__main__":
    main()
