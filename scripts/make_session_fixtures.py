"""Writes tests/fixtures/session/*.onnx: the smallest graphs with the inputs and outputs of a bundle's.

Needs the Python package onnx. The files are committed; run this again only to change them.
"""

from pathlib import Path

import onnx
import onnx.parser

STATE = "float[3] trainable, float[3] adam_m, float[3] adam_v"
NEXT = "float[3] trainable_next, float[3] adam_m_next, float[3] adam_v_next"

GRAPHS = {
    # x [batch, 3]; loss = sum(x @ trainable), and its gradient is the sum of the rows of x.
    "training": f"""
        training (float[batch, 3] x, int64 step, float learning_rate, float weight_decay, {STATE})
            => (float loss, float grad_norm, {NEXT})
        <float weight_decay = {{0}}, float[3] trainable = {{1, 2, 3}}, float[3] adam_m = {{0, 0, 0}}, float[3] adam_v = {{0, 0, 0}}> {{
            rows = Constant<value_ints = [0]>()
            product = Mul(x, trainable)
            loss = ReduceSum<keepdims = 0>(product)
            gradient = ReduceSum<keepdims = 0>(x, rows)
            squares = Mul(gradient, gradient)
            squared = ReduceSum<keepdims = 0>(squares)
            grad_norm = Sqrt(squared)
            decay = Mul(weight_decay, trainable)
            change = Add(gradient, decay)
            scaled = Mul(change, learning_rate)
            trainable_next = Sub(trainable, scaled)
            adam_m_next = Add(adam_m, gradient)
            count = Cast<to = 1>(step)
            adam_v_next = Add(adam_v, count)
        }}""",
    "gradient": """
        gradient (float[batch, 3] x, float label_count, float[3] trainable, float[3] gradient) => (float loss, float[3] gradient_next) {
            rows = Constant<value_ints = [0]>()
            product = Mul(x, trainable)
            total = ReduceSum<keepdims = 0>(product)
            loss = Div(total, label_count)
            sum = ReduceSum<keepdims = 0>(x, rows)
            mean = Div(sum, label_count)
            gradient_next = Add(gradient, mean)
        }""",
    "update": f"""
        update (float[3] gradient, int64 step, float learning_rate, {STATE}) => (float grad_norm, {NEXT}) {{
            squares = Mul(gradient, gradient)
            squared = ReduceSum<keepdims = 0>(squares)
            grad_norm = Sqrt(squared)
            scaled = Mul(gradient, learning_rate)
            trainable_next = Sub(trainable, scaled)
            adam_m_next = Add(adam_m, gradient)
            count = Cast<to = 1>(step)
            adam_v_next = Add(adam_v, count)
        }}""",
    # One value of every element type goes through.
    "types": """
        types (float[n] a, float16[n] b, bfloat16[n] c, int64[n] d, int32[n] e, bool[n] f, double[n] h)
            => (float[n] a_out, float16[n] b_out, bfloat16[n] c_out, int64[n] d_out, int32[n] e_out, bool[n] f_out, double[n] h_out, int8[n] g_out) {
            a_out = Identity(a)
            b_out = Identity(b)
            c_out = Identity(c)
            d_out = Identity(d)
            e_out = Identity(e)
            f_out = Identity(f)
            h_out = Identity(h)
            g_out = Cast<to = 3>(a)
        }""",
}


def main() -> None:
    folder = Path(__file__).parent.parent / "tests/fixtures/session"
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in GRAPHS.items():
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{graph}')
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
