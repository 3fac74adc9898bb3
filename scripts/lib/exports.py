"""Writes ONNX files of PyTorch models with each exporter: shared by make_fixtures.py and check_architectures.py.

A function of EXPORTERS takes `load`, which gives the model with the attention implementation asked for, its task (see families.py) and the file to write. The graphs are as
the exporters write them; only how transformers builds masks is replaced while they trace, as optimum does it.
"""
import contextlib
import shutil

import onnxruntime
import torch

from families import POSITIONS, VOCABULARY, image_form
from onnx_inputs import feeds, images, probe, relative_difference

TASKS = {"CAUSAL_LM": "text-generation", "SEQ_CLS": "text-classification", "MASKED_LM": "fill-mask", "FEATURES": "feature-extraction", "TOKEN_CLS": "token-classification",
         "SEQ_2_SEQ_LM": "text2text-generation", "IMAGE_CLS": "image-classification"}  # optimum's names


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


OUTPUTS = {"FEATURES": ["last_hidden_state", "pooler_output"], "SEQ_2_SEQ_LM": ["logits", "encoder_last_hidden_state"]}


def outputs(task):
    """The outputs of the model itself; the first is all that TorchScript's exporter is shown."""
    return OUTPUTS.get(task, ["logits"])


def example(config, task, positions=False):
    """Inputs [2, 9] of which the second row is padded, or two images; dynamic axes of inputs and of the logits."""
    if task == "IMAGE_CLS":
        pixels = torch.tensor(images(*image_form(config), 2)["pixel_values"])
        return {"pixel_values": pixels}, {"pixel_values": {0: "batch"}}, {"logits": {0: "batch"}}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if task not in ("CAUSAL_LM", "SEQ_2_SEQ_LM") and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if positions:
        inputs["position_ids"] = torch.arange(9)[None].repeat(2, 1)
    axes = {key: {0: "batch", 1: "sequence"} for key in inputs}
    logits = {0: "batch"} if task == "SEQ_CLS" else {0: "batch", 1: "sequence"}
    if task == "SEQ_2_SEQ_LM":
        inputs["decoder_input_ids"] = ids[:, :5]
        axes["decoder_input_ids"] = logits = {0: "batch", 1: "decoder_sequence"}
    return inputs, axes, {outputs(task)[0]: logits}


def torchscript(load, task, file, opset=17, positions=False, attention="eager"):
    model = load(attention)
    inputs, axes, logits = example(model.config, task, positions)
    with masks_without_vmap(), traceable_operators(), torch.no_grad():
        torch.onnx.export(First(model, list(inputs)), tuple(inputs.values()), str(file), dynamo=False, opset_version=opset,
                          input_names=list(inputs), output_names=list(logits), dynamic_axes={**axes, **logits})


def dynamo(load, task, file, external_data=False, attention="sdpa", opset=18, positions=False):
    model = load(attention)
    inputs, axes, _ = example(model.config, task, positions)
    with masks_without_vmap(), torch.no_grad():
        torch.onnx.export(model, (), str(file), kwargs=inputs, dynamo=True, opset_version=opset, input_names=list(inputs), output_names=outputs(task),
                          dynamic_shapes=axes, external_data=external_data, optimize=True, verbose=False)


def optimum(load, task, file, cache=False, attention="sdpa"):
    from optimum.exporters.onnx import onnx_export_from_model
    folder = file.parent / f"{file.stem}_optimum"
    model = load(attention)
    if task != "IMAGE_CLS":
        model.config.use_cache = cache
    onnx_export_from_model(model, folder, task=TASKS[task] + "-with-past" * cache, monolith=task == "SEQ_2_SEQ_LM", device="cpu", do_validation=False)
    shutil.move(folder / "model.onnx", file)
    shutil.rmtree(folder)


def optimum_merged(load, task, file, attention="sdpa"):
    """A decoder without a cache and one with, in one graph whose input `use_cache_branch` says which of them runs."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager
    from optimum.onnx import merge_decoders
    model, parts = load(attention), []
    model.config.use_cache = True
    make = TasksManager.get_exporter_config_constructor("onnx", model, task=TASKS[task])
    for with_past in (False, True):
        parts.append(file.with_suffix(f".{'with' if with_past else 'without'}_past.onnx"))
        config = make(model.config, use_past=True, use_past_in_inputs=with_past)
        export(model, config, parts[-1], opset=config.DEFAULT_ONNX_OPSET)
    merge_decoders(*map(str, parts), save_path=str(file), strict=False)
    for part in parts:
        part.unlink()


def fused(load, task, file, **_):
    """The TorchScript file with onnxruntime's operators in it: attention, norms, rotary positions (which want positions as an input)."""
    import inspect

    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    model = load("eager")
    plain = file.with_suffix(".plain.onnx")
    rotary = any("rotary" in name for name, _ in model.named_modules())
    torchscript(load, task, plain, positions=rotary and "position_ids" in inspect.signature(model.forward).parameters)
    config = model.config
    kind = "gpt2" if task == "CAUSAL_LM" and not rotary else "t5" if config.model_type.endswith("t5") else "bert"
    heads, hidden = (next((getattr(config, key) for key in keys if isinstance(getattr(config, key, None), int)), 0)
                     for keys in (("num_attention_heads", "num_heads"), ("hidden_size", "d_model")))  # 0: the optimizer finds out
    optimized = optimize_model(str(plain), model_type=kind, num_heads=heads, hidden_size=hidden, optimization_options=FusionOptions(kind), opt_level=0)
    optimized.save_model_to_file(str(file), use_external_data_format=False)
    plain.unlink()


EXPORTERS = {
    "torchscript": torchscript,
    "dynamo": dynamo,
    "optimum": optimum,
    "optimum_cache": lambda *about, **options: optimum(*about, cache=True, **options),
    "fused": fused,
}


def difference(model, task, file):
    """Largest difference of the real tokens' logits from PyTorch's over the largest logit, at shapes other than the exporter saw."""
    session, worst = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]), 0.0
    for lengths in [(13, 5, 8), (6,), (POSITIONS - 1, 3)]:
        is_image = task == "IMAGE_CLS"
        inputs = images(*image_form(model.config), len(lengths)) if is_image else probe(VOCABULARY, lengths, decoder=task == "SEQ_2_SEQ_LM")
        with torch.no_grad():
            wanted = model(**{key: torch.tensor(value) for key, value in inputs.items()})[0].numpy()
        worst = max(worst, relative_difference(session.run(outputs(task)[:1], feeds(session, inputs))[0], wanted, inputs))
    return worst
