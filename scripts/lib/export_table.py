"""The table of check_exports.py: how tiny models become ONNX files, and of what family."""
import dataclasses
import re
from collections.abc import Callable

import torch

import exports
import genai
import rewriters
import tensorflow_export
from export_models import ENCODER, GEMMA2, GENAI, GPT2, LLAMA, PHI3, QUICK_GELU, TANH_ENCODER, WINDOW

BOTH = (LLAMA, ENCODER)


@dataclasses.dataclass(frozen=True)
class Export:
    name: str
    write: Callable               # (model, file), or (model, file to read, file to write) where it is made `of` another
    models: tuple = BOTH
    of: "Export | None" = None
    quantized: bool = False       # its weights are rounded: PEFT trains what they stand for
    rounds: bool = False          # it rounds as it runs
    runs: bool = True             # on the processor; bfloat16 is for CUDA

    @property
    def slug(self):
        return re.sub(r"\W+", "_", self.name).strip("_").lower()


def torchscript(opset, models=BOTH, **options):
    words = "".join(f", {key} {value}" for key, value in options.items())
    return Export(f"torch.onnx TorchScript, opset {opset}{words}", lambda model, file: exports.torchscript(model.load, model.task, file, opset=opset, **options), models)


def dynamo(opset, models=BOTH, **options):
    words = "".join(f", {key} {value}" for key, value in options.items())
    return Export(f"torch.onnx dynamo, opset {opset}{words}", lambda model, file: exports.dynamo(model.load, model.task, file, opset=opset, **options), models)


def of(base, name, change, models=None, **flags):
    """What a tool makes of another export; options of the tool beside the flags of the row."""
    known = {field.name for field in dataclasses.fields(Export)}
    told = {key: flags.pop(key) for key in list(flags) if key in known}
    return Export(name, lambda model, source, target: change(model, source, target, **flags), models or base.models, of=base, **told)


def optimum(name, models, **options):
    return Export(name, lambda model, file: exports.optimum(model.load, model.task, file, **options), models)


def builder(name, models=(GENAI,), quantized=False, rounds=False, **options):
    return Export(f"onnxruntime-genai builder, {name}", lambda model, file: genai.build(model, file, **options), models, quantized=quantized, rounds=rounds)


SCRIPT, DYNAMO = torchscript(17, (*BOTH, GPT2, QUICK_GELU)), dynamo(18, (*BOTH, GPT2))
# The optimizer's RotaryEmbedding reads positions from an input.
POSITIONS = torchscript(17, (LLAMA,), positions=True)
PAST = optimum("optimum, with past", (LLAMA, GPT2), cache=True)
PLAIN = optimum("optimum", (*BOTH, GPT2))

EXPORTERS = [
    *[torchscript(opset) for opset in range(9, 21) if opset != 17], SCRIPT, torchscript(17, attention="sdpa"), POSITIONS,
    DYNAMO, *[dynamo(opset) for opset in range(19, 27)], dynamo(20, attention="eager", external_data=True),
    # Without positions as an input, RotaryEmbedding of opset 23 is written with tables for one row.
    *[dynamo(opset, (LLAMA,), positions=True) for opset in range(23, 27)],
    PLAIN, PAST,
    Export("optimum, merged decoders", lambda model, file: exports.optimum_merged(model.load, model.task, file), (LLAMA, GPT2)),
    *[Export(f"tf2onnx, opset {opset}", lambda model, file, opset=opset: tensorflow_export.write(model, file, opset), (TANH_ENCODER,)) for opset in (12, 17)],
]
CONVERTERS = [
    *[of(SCRIPT, f"onnx.version_converter, TorchScript 17 to {opset}", rewriters.version, BOTH, opset=opset) for opset in (14, 15, 16, 21, 23, 26)],
    *[of(DYNAMO, f"onnx.version_converter, dynamo 18 to {opset}", rewriters.version, BOTH, opset=opset) for opset in (17, 22, 26)],
    of(SCRIPT, "onnxslim of TorchScript", rewriters.slim), of(DYNAMO, "onnxslim of dynamo", rewriters.slim),
    of(SCRIPT, "onnxsim of TorchScript", rewriters.simplify), of(DYNAMO, "onnxsim of dynamo", rewriters.simplify),
    of(PAST, "onnxslim of optimum with past", rewriters.slim), of(PAST, "onnxsim of optimum with past", rewriters.simplify),
]
OPTIMIZERS = [
    of(SCRIPT, "saved by a session, level 1 (basic)", rewriters.runtime_optimized, BOTH, level="BASIC"),
    of(SCRIPT, "saved by a session, level 2 (extended)", rewriters.runtime_optimized, level="EXTENDED"),
    of(DYNAMO, "dynamo, saved by a session, level 2 (extended)", rewriters.runtime_optimized, level="EXTENDED"),
    of(PAST, "with past, saved by a session, level 2 (extended)", rewriters.runtime_optimized, level="EXTENDED"),
    of(POSITIONS, "onnxruntime.transformers, rotary", rewriters.fused),
    of(POSITIONS, "onnxruntime.transformers, rotary, level 2", rewriters.fused, level=2),
    of(SCRIPT, "onnxruntime.transformers", rewriters.fused, (ENCODER,)),
    of(SCRIPT, "onnxruntime.transformers, MultiHeadAttention", rewriters.fused, (ENCODER,), use_multi_head_attention=True),
    of(SCRIPT, "onnxruntime.transformers, level 2", rewriters.fused, (ENCODER,), level=2),
    of(SCRIPT, "onnxruntime.transformers, GPT-2", rewriters.fused, (GPT2, QUICK_GELU), kind="gpt2"),
    *[of(PLAIN, f"optimum {level}", rewriters.optimum_optimized, (ENCODER, GPT2), level=level, rounds=level in ("O3", "O4")) for level in ("O1", "O2", "O3", "O4")],
]
def int4(name, models=(GENAI,), level=1, **options):
    """Level 1: products in float32, as they are trained; with 4, ONNX Runtime's kernel rounds activations to 8 bits."""
    options = dict(int4_block_size=32, int4_algo_config="default", int4_accuracy_level=level) | options
    return builder(f"int4, {name}", models, quantized=True, rounds=level == 4, precision="int4", **options)


BUILDER = [
    builder("float32", (GENAI, WINDOW, PHI3, GEMMA2)),
    builder("float16", precision="fp16", rounds=True),
    int4("blocks of 32"),
    int4("blocks of 32, accuracy level 4", level=4),
    int4("blocks of 16, zero points", int4_block_size=16, int4_is_symmetric="false"),
    int4("embeddings too", int4_op_types_to_quantize="MatMul/Gather"),
    int4("QDQ", use_qdq="true"),
    int4("window", (WINDOW,)),
]
HALF = [
    *[of(SCRIPT, f"float16 by {tool}, inputs and outputs {'kept' if kept else 'converted'}", rewriters.float16, BOTH, tool=tool, keep_io_types=kept, rounds=True)
      for tool in ("onnxruntime.transformers.float16", "onnxconverter_common.float16") for kept in (True, False)],
    of(SCRIPT, "onnxruntime.transformers, float16", rewriters.fused, (ENCODER,), half="io kept", rounds=True),
    *[Export(f"torch.onnx dynamo, {half}", lambda model, file, half=half: exports.dynamo(lambda a: model.load(a).to(getattr(torch, half)), model.task, file),
             BOTH, rounds=True, runs=half != "bfloat16") for half in ("float16", "bfloat16")],
]
QUANTIZERS = [
    # DequantizeLinear in blocks came with opset 21; the quantiser goes on to it without converting what stands in TorchScript's file.
    *[of(DYNAMO if form == "QDQ" else SCRIPT,
         f"matmul_nbits_quantizer, {bits} bits, blocks of {block}, {'symmetric' if symmetric else 'zero points'}, {form}", rewriters.n_bits, BOTH,
         bits=bits, block=block, symmetric=symmetric, form=form, quantized=True)
      for bits, block, symmetric, form in [(4, 32, True, "QOperator"), (4, 32, False, "QOperator"), (4, 16, False, "QOperator"), (8, 32, True, "QOperator"),
                                           (8, 32, False, "QOperator"), (4, 32, True, "QDQ"), (4, 32, False, "QDQ"), (4, 128, True, "QOperator")]],
    of(DYNAMO, "matmul_nbits_quantizer, 4 bits, embeddings too", rewriters.n_bits, (LLAMA,), operators=("MatMul", "Gather"), quantized=True),
    of(SCRIPT, "matmul_nbits_quantizer, HQQ", rewriters.n_bits, (LLAMA,), kind="HQQ", quantized=True),
    of(SCRIPT, "MatMulNBits with groups of columns", rewriters.with_groups, (LLAMA,), quantized=True),
    of(PAST, "matmul_nbits_quantizer of optimum with past", rewriters.n_bits, (LLAMA,), quantized=True),
    *[of(SCRIPT, f"quantize_dynamic, {kind}{', per channel' if channel else ''}", rewriters.dynamic, BOTH, weight_type=kind, per_channel=channel, rounds=True)
      for kind in ("QInt8", "QUInt8") for channel in (False, True)],
    of(SCRIPT, "quantize_dynamic, the classifier too", rewriters.dynamic, (ENCODER,), whole=True, rounds=True),
    *[of(SCRIPT, f"quantize_static, {form}{', per channel' if channel else ''}", rewriters.static, BOTH, form=form, per_channel=channel, rounds=True)
      for form in ("QDQ", "QOperator") for channel in (False, True)],
    of(PLAIN, "optimum, int8 (avx512_vnni, dynamic)", rewriters.optimum_quantized, (ENCODER,), rounds=True),
]
ROWS = EXPORTERS + CONVERTERS + OPTIMIZERS + BUILDER + HALF + QUANTIZERS
