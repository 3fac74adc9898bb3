"""The model in PyTorch that a graph with quantised weights stands for: what PEFT trains beside it.

Each quantised weight is given back as floats by ONNX Runtime itself, from a graph with that one node, and takes the place of the weight that it is nearest to.
"""
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

NEAREST = 0.9  # cosine: 4 bits in blocks keep a random weight within 0.99


def write_twin(model, slug, file):
    """The model beside `model` that has the weights of `file`, written once."""
    twin = model.twin(slug)
    if not twin.hf.exists():
        changed = model.load()
        if not replace(changed, stored(file)):
            raise ValueError(f"{file}: no quantised weight was found")
        changed.save_pretrained(twin.hf)
    return twin


def stored(file):
    """The quantised matrices of a graph as floats, `[in, out]`."""
    model = onnx.load(file)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].HasField("t")}
    for node in model.graph.node:
        given = [constants.get(name) for name in node.input]
        if node.op_type == "MatMulNBits":
            yield alone(model, node, constants, {node.input[0]: np.eye(attribute(node, "K"), dtype=np.float32)}, given)
        elif node.op_type == "GatherBlockQuantized":
            yield alone(model, node, constants, {node.input[1]: np.arange(given[0].dims[0])}, given)
        elif node.op_type == "DequantizeLinear" and given[0] is not None and len(given[0].dims) == 2:
            yield alone(model, node, constants, {}, given)


def attribute(node, name):
    return next(a.i for a in node.attribute if a.name == name)


def alone(model, node, constants, fed, given):
    """The value of one node of a graph."""
    kinds = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64}
    scales = given[2] if node.domain else given[1]
    copy, feeds = onnx.NodeProto(), {}
    copy.CopyFrom(node)
    for i, value in enumerate(node.input):
        if value in fed:
            copy.input[i] = "x"
            feeds["x"] = fed[value].astype(numpy_helper.to_array(scales).dtype) if fed[value].dtype == np.float32 else fed[value]
    kinds[np.dtype("float16")] = TensorProto.FLOAT16
    inputs = [helper.make_tensor_value_info("x", kinds[x.dtype], x.shape) for x in feeds.values()]
    output = helper.make_tensor_value_info(node.output[0], scales.data_type, None)
    graph = helper.make_graph([copy], "alone", inputs, [output], [constants[name] for name in node.input if name in constants])
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0].astype(np.float32)


def replace(model, weights):
    """Puts each weight where the nearest parameter is, or the nearest row of parameters that a graph packs into one; their names."""
    parameters = {key: p for key, p in model.named_parameters() if p.ndim == 2}
    packed = [[key.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")] for key in parameters if "q_proj.weight" in key]
    places = [[key] for key in parameters] + packed
    found = []
    for weight in weights:
        for turned in (weight.T, weight):
            near = [(cosine(torch.cat([parameters[key] for key in keys]), turned), keys) for keys in places]
            best, keys = max(near, default=(0, []))
            if best > NEAREST:
                rows = torch.tensor(turned.copy()).split([len(parameters[key]) for key in keys])
                with torch.no_grad():
                    for key, part in zip(keys, rows):
                        parameters[key].copy_(part)
                found += keys
                break
    return found


def cosine(parameter, weight):
    p = parameter.detach().numpy()
    return 0.0 if p.shape != weight.shape else float((p * weight).sum() / (np.linalg.norm(p) * np.linalg.norm(weight) + 1e-30))
