"""Tools that make another ONNX file of one, as users run them before they come to us: optimizers, converters, quantisers.

Each takes a model of export_models.py, the file to read and the file to write. What is not installed is an ImportError, which check_exports.py reports.
"""
import pathlib
import shutil
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from onnx_inputs import feeds, probe

TABLE_ROWS = 256  # of the tables of cosines and sines, which the optimizer makes for 131072 positions


def version(model, source, target, opset):
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), opset), target)


def slim(model, source, target):
    import onnxslim
    onnxslim.slim(str(source), output_model=str(target))


def simplify(model, source, target):
    import onnxsim
    simple, right = onnxsim.simplify(onnx.load(source))
    if not right:
        raise RuntimeError("onnxsim finds its own result to be another")
    onnx.save(simple, target)


def runtime_optimized(model, source, target, level="EXTENDED"):
    """What a session of ONNX Runtime saves of the graph that it made for itself."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def fused(model, source, target, kind="bert", level=0, half=None, **options):
    """onnxruntime.transformers.optimizer. `half`: float16, with inputs and outputs kept or not."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    fusion = FusionOptions(kind)
    for key, value in options.items():
        setattr(fusion, key, value)
    made = optimize_model(str(source), model_type=kind, num_heads=model.heads, hidden_size=model.hidden, optimization_options=fusion, opt_level=level)
    for tensor in made.model.graph.initializer:
        if "cos_cache" in tensor.name or "sin_cache" in tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:TABLE_ROWS].copy(), tensor.name))
    if half:
        made.convert_float_to_float16(keep_io_types=half == "io kept")
    made.save_model_to_file(str(target))


def float16(model, source, target, tool="onnxruntime.transformers.float16", keep_io_types=True):
    import importlib
    convert = importlib.import_module(tool)
    onnx.save(convert.convert_float_to_float16(onnx.load(source), keep_io_types=keep_io_types), target)


def n_bits(model, source, target, bits=4, block=32, symmetric=True, form="QOperator", operators=("MatMul",), kind="Default"):
    """onnxruntime.quantization.matmul_nbits_quantizer."""
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizer
    from onnxruntime.quantization.quant_utils import QuantFormat
    options = dict(bits=bits, block_size=block, quant_format=QuantFormat[form], op_types_to_quantize=operators, quant_axes=(("MatMul", 0), ("Gather", 1)))
    if kind == "Default":
        options |= dict(is_symmetric=symmetric, accuracy_level=1)  # products in float32, as far as a kernel has them
    config = getattr(quantizer, f"{kind}WeightOnlyQuantConfig")(**options)
    maker = quantizer.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    maker.process()
    maker.model.save_model_to_file(str(target), use_external_data_format=False)


def with_groups(model, source, target):
    """MatMulNBits that is told the group of each column, as of GPTQ's files: the same weights, their groups kept from the last to the first."""
    n_bits(model, source, target)
    made = onnx.load(target)
    constants, groups = {tensor.name: tensor for tensor in made.graph.initializer}, []
    for node in made.graph.node:
        if node.op_type == "MatMulNBits":
            size = {a.name: a.i for a in node.attribute}
            scales = constants[node.input[2]]
            kept = numpy_helper.to_array(scales).reshape(size["N"], -1)
            scales.CopyFrom(numpy_helper.from_array(kept[:, ::-1].reshape(scales.dims).copy(), scales.name))
            of_columns = kept.shape[1] - 1 - np.arange(size["K"]) // size["block_size"]
            groups.append(numpy_helper.from_array(of_columns.astype(np.int32), node.output[0] + "_g_idx"))
            node.input.extend([""] * (4 - len(node.input)) + [groups[-1].name])
    made.graph.initializer.extend(groups)
    onnx.save(made, target)


def classifier(source):
    """The nodes of a classifier, which is trained as a whole, so that it must be of floats."""
    names = [node.name for node in onnx.load(source, load_external_data=False).graph.node if "classifier" in node.name]
    return names + [f"{name}_MatMul" for name in names]  # the quantiser makes that of Gemm


def dynamic(model, source, target, weight_type="QInt8", whole=False, **options):
    """`whole`: the classifier too."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(str(source), str(target), weight_type=QuantType[weight_type], nodes_to_exclude=[] if whole else classifier(source), **options)


def static(model, source, target, form="QDQ", **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static, shape_inference

    class Reader(CalibrationDataReader):
        def __init__(self, file):
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            self.rows = iter([feeds(session, probe(model.settings["vocab_size"], lengths)) for lengths in [(12, 7), (14, 5), (9, 9)]])

        def get_next(self):
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as work:
        ready = f"{work}/ready.onnx"
        shape_inference.quant_pre_process(str(source), ready, skip_symbolic_shape=True)
        quantize_static(ready, str(target), Reader(ready), quant_format=QuantFormat[form], activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=classifier(source), **options)


def optimum_optimized(model, source, target, level):
    from optimum.onnxruntime import AutoOptimizationConfig, ORTModelForCausalLM, ORTModelForSequenceClassification, ORTOptimizer
    kind = ORTModelForCausalLM if model.task == "CAUSAL_LM" else ORTModelForSequenceClassification
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(source, f"{work}/model.onnx")
        for file in model.hf.glob("*.json"):
            shutil.copy(file, work)
        opened = kind.from_pretrained(work, file_name="model.onnx", **({"use_cache": False, "use_io_binding": False} if kind is ORTModelForCausalLM else {}))
        ORTOptimizer.from_pretrained(opened).optimize(getattr(AutoOptimizationConfig, level)(), save_dir=f"{work}/out")
        shutil.move(next(pathlib.Path(f"{work}/out").glob("*.onnx")), target)


def optimum_quantized(model, source, target):
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(source, f"{work}/model.onnx")
        shutil.copy(model.hf / "config.json", work)
        quantizer = ORTQuantizer.from_pretrained(work, file_name="model.onnx")
        quantizer.quantize(save_dir=f"{work}/out", quantization_config=AutoQuantizationConfig.avx512_vnni(
            is_static=False, per_channel=True, nodes_to_exclude=classifier(source)))
        shutil.move(next(pathlib.Path(f"{work}/out").glob("*.onnx")), target)
