//! Operators without a kernel in ONNX Runtime's CUDA provider, written with operators that have one.

use crate::error::Result;
use crate::ir::{Builder, DType, Expr, Graph};

/// The same graph without `DynamicQuantizeLinear`, whose input would be copied to the processor and back in every run; nothing if it has none. The numbers are the same.
///
/// # Errors
/// None for a graph that was finished.
pub fn for_cuda(graph: &Graph) -> Result<Option<Graph>> {
    let b = Builder::on(graph);
    let mut is_changed = false;
    for node in graph.nodes().iter().filter(|node| &*node.op == "DynamicQuantizeLinear") {
        let Some(x) = node.input(0) else { continue };
        let rounded = b.scoped(&node.name, || dynamically_rounded(b.expr(x)));
        for (output, new) in node.outputs.iter().zip(rounded) {
            if let Some(output) = *output {
                b.take_over(b.expr(output), new);
            }
        }
        is_changed = true;
    }
    if is_changed { b.finish().map(Some) } else { Ok(None) }
}

/// Values, scale and zero point as [`DynamicQuantizeLinear`](https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html) defines them; the scale of zeros is 1, as in ONNX
/// Runtime.
fn dynamically_rounded(x: Expr<'_>) -> [Expr<'_>; 3] {
    let b = x.b();
    let zero = x.same_type(0.0);
    let of_all = |op: &str| b.op(op, &[x], &[("keepdims", 0_i64.into())]);
    let (least, most) = (of_all("ReduceMin").min(zero), of_all("ReduceMax").max(zero));
    let range = most - least;
    let scale = range.equal(zero).where_(x.same_type(1.0), range / 255.0);
    let middle = b.op("Round", &[(zero - least) / scale], &[]);
    let middle = middle.max(zero).min(x.same_type(255.0)).cast(DType::U8);
    [b.op("QuantizeLinear", &[x, scale, middle], &[]), scale, middle]
}
