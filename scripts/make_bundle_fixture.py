"""Writes tests/fixtures/bundle/: the smallest bundle that a trainer can train.

Its model knows nothing but how frequent each of five tokens is: the trainable vector holds their logits. So loss, gradient and update fit on a page.
Needs the Python packages onnx and safetensors. The files are committed; run this again only to change them.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from safetensors.numpy import save_file

DATA = "int64[batch, seq] input_ids, int64[batch, seq] attention_mask, int64[batch, seq] labels"
STATE = "float[5] trainable, float[5] adam_m, float[5] adam_v"
NEXT = "float grad_norm, float[5] trainable_next, float[5] adam_m_next, float[5] adam_v_next"
PARAMETERS = "float weight_decay, double adam_beta1, double adam_beta2, float adam_epsilon, float max_grad_norm"
ZEROS = "{0, 0, 0, 0, 0}"
VALUES = f"""float[5] trainable = {ZEROS}, float[5] adam_m = {ZEROS}, float[5] adam_v = {ZEROS}, float weight_decay = {{0.01}},
    double adam_beta1 = {{0.9}}, double adam_beta2 = {{0.999}}, float adam_epsilon = {{0.00000001}}, float max_grad_norm = {{1}}"""

# Each position predicts the next label, wherever that is not -100.
LOSS = """
    one = Constant<value_ints = [1]>()
    end = Constant<value_ints = [9223372036854775807]>()
    rows = Constant<value_ints = [-1]>()
    ignored = Constant<value_int = -100>()
    nothing = Constant<value_int = 0>()
    first = Constant<value_ints = [0]>()
    later = Slice(labels, one, end, one)
    flat = Reshape(later, rows)
    ignores = Equal(flat, ignored)
    classes = Where(ignores, nothing, flat)
    counts = Not(ignores)
    weights = Cast<to = 1>(counts)
    found = ReduceSum<keepdims = 0>(weights)
    log_shares = LogSoftmax<axis = -1>(trainable)
    chosen = Gather(log_shares, classes)
    weighted = Mul(chosen, weights)
    summed = ReduceSum<keepdims = 0>(weighted)
    loss_sum = Neg(summed)
"""

# Dropout stands for whatever depends on its seed: the gradient grows by up to 6 %.
GRADIENT = """
    shares = Softmax<axis = -1>(trainable)
    expected = Mul(shares, found)
    depth = Constant<value_int = 5>()
    off_on = Constant<value_floats = [0.0, 1.0]>()
    hot = OneHot(classes, depth, off_on)
    column = Unsqueeze(weights, rows)
    counted = Mul(hot, column)
    histogram = ReduceSum<keepdims = 0>(counted, first)
    difference = Sub(expected, histogram)
    seven = Constant<value_int = 7>()
    small = Mod(dropout_seed, seven)
    noise = Cast<to = 1>(small)
    hundred = Constant<value_float = 100.0>()
    part = Div(noise, hundred)
    unit = Constant<value_float = 1.0>()
    factor = Add(part, unit)
    scaled = Mul(difference, factor)
    total = Div(scaled, denominator)
"""

UPDATE = """
    squares = Mul(total, total)
    squared = ReduceSum<keepdims = 0>(squares)
    grad_norm = Sqrt(squared)
    beta1 = Cast<to = 1>(adam_beta1)
    beta2 = Cast<to = 1>(adam_beta2)
    whole = Constant<value_float = 1.0>()
    take1 = Sub(whole, beta1)
    take2 = Sub(whole, beta2)
    kept_m = Mul(adam_m, beta1)
    new_m = Mul(total, take1)
    adam_m_next = Add(kept_m, new_m)
    kept_v = Mul(adam_v, beta2)
    new_v = Mul(squares, take2)
    adam_v_next = Add(kept_v, new_v)
    root = Sqrt(adam_v_next)
    below = Add(root, adam_epsilon)
    direction = Div(adam_m_next, below)
    move = Mul(direction, learning_rate)
    decay = Mul(learning_rate, weight_decay)
    keep = Sub(whole, decay)
    decayed = Mul(trainable, keep)
    trainable_next = Sub(decayed, move)
"""

GRAPHS = {
    "training": f"""training ({DATA}, int64 step, float learning_rate, {STATE}, {PARAMETERS}, int64 dropout_seed) => (float loss, {NEXT})
        <{VALUES}, int64 dropout_seed = {{0}}> {{ {LOSS}
            least = Constant<value_float = 1.0>()
            denominator = Max(found, least)
            loss = Div(loss_sum, denominator)
            {GRADIENT} {UPDATE} }}""",
    "gradient": f"""gradient ({DATA}, float label_count, float[5] trainable, float[5] gradient, int64 dropout_seed) => (float loss, float[5] gradient_next)
        <int64 dropout_seed = {{0}}> {{ {LOSS}
            denominator = Identity(label_count)
            loss = Div(loss_sum, denominator)
            {GRADIENT}
            gradient_next = Add(gradient, total) }}""",
    "update": f"""update (float[5] gradient, int64 step, float learning_rate, {STATE}, {PARAMETERS}) => ({NEXT})
        <{VALUES}> {{ total = Identity(gradient) {UPDATE} }}""",
    "evaluation": f"""evaluation ({DATA}, float[5] trainable) => (float loss_sum, float label_count, float correct) {{ {LOSS}
            label_count = Identity(found)
            best = ArgMax<axis = 0, keepdims = 1>(trainable)
            hit = Equal(classes, best)
            hits = Cast<to = 1>(hit)
            counted = Mul(hits, weights)
            correct = ReduceSum<keepdims = 0>(counted) }}""",
}

ROWS = [[1, 2, 2, 3], [4, 4, 0], [2, 2, 2, 2, 1], [3, 1], [0, 2, 3, 2], [1, 1, 2], [2, 4]]


def manifest() -> dict:
    graphs = {name: {"file": f"{name}.onnx", "inputs": [], "outputs": []} for name in GRAPHS}
    return {
        "version": 2,
        "producer": "a test",
        "method": "lora",
        "task": "causal-lm",
        "base": {"file": "base.onnx", "path": "base.onnx", "fingerprint": "none", "files": []},
        "graphs": graphs,
        "trainable": [{"name": "a", "file": "adapter_model.safetensors", "input": "a", "shape": [3], "offset": 0}, {"name": "b", "file": "adapter_model.safetensors", "input": "b", "shape": [1, 2], "offset": 3}],
        "trainable_count": 5,
        "base_count": 5,
        "logits": "logits",
        "classes": 5,
        "max_positions": None,
        "dropout": 0.1,
    }


def main() -> None:
    folder = Path(__file__).parent.parent / "tests/fixtures/bundle"
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in GRAPHS.items():
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{graph}')
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{name}.onnx")
    (folder / "peft-onnx.json").write_text(json.dumps(manifest(), indent=2) + "\n")
    save_file({"a": np.zeros(3, np.float32), "b": np.zeros((1, 2), np.float32)}, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "train.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ROWS))


if __name__ == "__main__":
    main()
