"""Makes models/fixtures/<family>/{hf/,<export>.onnx}: tiny random transformers and the ONNX files that PyTorch's and optimum's exporters write of them.

    python scripts/make_fixtures.py [FAMILY...]

Made with torch 2.15, transformers 4.57, onnx 1.23, onnxscript 0.7, optimum-onnx 0.1, onnxruntime 1.32. The graphs are as the exporters wrote them, but
for one thing: of the dynamo exporter's node metadata the stack traces (paths of the machine), fx_node and class_hierarchy (longer than the weights) are
taken out; namespace and name_scopes stay. Each file is run and compared with PyTorch before it is kept.
"""
import contextlib
import shutil
import sys

import families
from families import FAMILIES, FIXTURES, POSITIONS, VOCABULARY, load
from onnx_inputs import feeds, probe, relative_difference

torch = families.prepare()
import onnx  # noqa: E402
import onnxruntime  # noqa: E402

LARGEST_FILE = 200_000  # bytes
LEFT_OUT = ("stack_trace", "fx_node", "class_hierarchy")  # node metadata of the dynamo exporter
LARGEST_DIFFERENCE = 1e-5  # of the largest logit; float32 noise of two layers


@contextlib.contextmanager
def masks_without_vmap():
    """transformers builds masks with vmap, which the exporters do not take; optimum has the same masks written out."""
    from optimum.exporters.onnx import model_patcher
    from transformers import masking_utils
    table, packed = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS, masking_utils.find_packed_sequence_indices
    before = {name: table[name] for name in ("eager", "sdpa")}
    table.register("eager", model_patcher.eager_mask_without_vmap)
    table.register("sdpa", model_patcher.sdpa_mask_without_vmap)
    masking_utils.find_packed_sequence_indices = model_patcher.find_packed_sequence_indices_patched
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = packed
        for name, function in before.items():
            table.register(name, function)


@contextlib.contextmanager
def traceable_operators():
    """Operators that TorchScript's exporter lacks, as optimum writes them."""
    from optimum.exporters.onnx.model_patcher import UNSUPPORTED_OPS_PATCHING_SPEC as table
    before = [(spec, getattr(spec.o, spec.name)) for spec in table]
    for spec in table:
        setattr(spec.o, spec.name, spec.custom_op)
    try:
        yield
    finally:
        for spec, function in before:
            setattr(spec.o, spec.name, function)


class First(torch.nn.Module):
    """A model that gives its logits, or its hidden states."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs)))[0]


def output(name):
    return "last_hidden_state" if FAMILIES[name].task == "FEATURES" else "logits"


def example(name):
    """Inputs [2, 9] of which the second row is padded; dynamic axes of inputs and of the logits."""
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name.startswith("bert"):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    axes = {key: {0: "batch", 1: "sequence"} for key in inputs}
    logits = {0: "batch"} if FAMILIES[name].task == "SEQ_CLS" else {0: "batch", 1: "sequence"}
    return inputs, axes, {output(name): logits}


def torchscript(name, file, opset=17):
    inputs, axes, logits = example(name)
    with masks_without_vmap(), traceable_operators(), torch.no_grad():
        torch.onnx.export(First(load(name), list(inputs)), tuple(inputs.values()), str(file), dynamo=False, opset_version=opset,
                          input_names=list(inputs), output_names=[output(name)], dynamic_axes={**axes, **logits})


def dynamo(name, file, external_data=False):
    inputs, axes, _ = example(name)
    names = ["last_hidden_state", "pooler_output"] if FAMILIES[name].task == "FEATURES" else ["logits"]
    with masks_without_vmap(), torch.no_grad():
        torch.onnx.export(load(name, "sdpa"), (), str(file), kwargs=inputs, dynamo=True, opset_version=18, input_names=list(inputs), output_names=names,
                          dynamic_shapes=axes, external_data=external_data, optimize=True, verbose=False)
    without_long_metadata(file)


def without_long_metadata(file):
    model = onnx.load(file, load_external_data=False)
    nodes = list(model.graph.node) + [node for function in model.functions for node in function.node]
    for node in nodes:
        kept = [p for p in node.metadata_props if p.key.rsplit(".")[-1] not in LEFT_OUT]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, file)


def optimum_cache(name, file):
    from optimum.exporters.onnx import main_export
    folder = file.parent / "optimum"
    main_export(str(FIXTURES / name / "hf"), folder, task="text-generation-with-past", device="cpu", do_validation=False, library_name="transformers", framework="pt")
    shutil.move(folder / "model.onnx", file)
    shutil.rmtree(folder)


EXPORTS = {
    "torchscript": torchscript,
    "torchscript_opset12": lambda name, file: torchscript(name, file, 12),
    "dynamo": dynamo,
    "dynamo_external": lambda name, file: dynamo(name, file, external_data=True),
    "optimum_cache": optimum_cache,
}


def difference(name, file):
    """Largest difference of the real tokens' logits from PyTorch's over the largest logit, at shapes other than the exporter saw."""
    model, worst = load(name), 0.0
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for lengths in [(13, 5, 8), (6,), (POSITIONS - 1, 3)]:
        inputs = probe(VOCABULARY, lengths)
        with torch.no_grad():
            wanted = model(**{key: torch.tensor(value) for key, value in inputs.items()})[0].numpy()
        worst = max(worst, relative_difference(session.run([output(name)], feeds(session, inputs))[0], wanted, inputs["attention_mask"]))
    return worst


def main():
    for name in sys.argv[1:] or FAMILIES:
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        families.random_model(name).save_pretrained(folder / "hf")
        for export in FAMILIES[name].exports:
            file = folder / f"{export}.onnx"
            EXPORTS[export](name, file)
            model, worst = onnx.load(file, load_external_data=False), difference(name, file)
            sizes = [f.stat().st_size for f in folder.glob(f"{export}.onnx*")]
            opset = next(o.version for o in model.opset_import if not o.domain)
            print(f"{name}/{export}: opset {opset}, {len(model.graph.node)} nodes, {sizes} bytes, difference {worst:.1e}", flush=True)
            if max(sizes) > LARGEST_FILE or worst > LARGEST_DIFFERENCE:
                sys.exit(f"{file}: too large or too different")


if __name__ == "__main__":
    main()
