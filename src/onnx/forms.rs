//! What changed in the forms of operators between opset 7 and 18, by ONNX's `Changelog.md`: one row an operator.

#![expect(clippy::unnecessary_wraps, reason = "all forms have one signature, those that cannot fail too")]

use super::older::{Old, Raise, set_input, take, take_ints};
use crate::error::Refusal;
use crate::ir::{Attr, DType, Expr, Node, Tensor};

/// Operator, the first opset in which the new form is valid, how to get it.
pub(super) static TABLE: &[(&str, i64, Raise)] = &[
    ("BatchNormalization", 14, batch_normalization),
    ("Cast", 9, cast),
    ("Clip", 11, clip),
    ("Dropout", 12, dropout),
    ("Hardmax", 13, along_the_last_axis),
    ("LogSoftmax", 13, along_the_last_axis),
    ("NonZero", 11, non_zero),
    ("Pad", 11, pad),
    ("ReduceL1", 18, axes),
    ("ReduceL2", 18, axes),
    ("ReduceLogSum", 18, axes),
    ("ReduceLogSumExp", 18, axes),
    ("ReduceMax", 18, axes),
    ("ReduceMean", 18, axes),
    ("ReduceMin", 18, axes),
    ("ReduceProd", 18, axes),
    ("ReduceSum", 13, axes),
    ("ReduceSumSquare", 18, axes),
    ("Resize", 13, resize),
    ("RoiAlign", 16, roi_align),
    ("Scan", 9, scan),
    ("Scatter", 19, scatter),
    ("Slice", 10, slice),
    ("Softmax", 13, along_the_last_axis),
    ("Split", 18, split),
    ("Squeeze", 13, axes),
    ("TopK", 10, top_k),
    ("Unsqueeze", 13, axes),
    ("Upsample", 19, upsample),
];

/// Axes were an attribute. No axes and none given are the same: all of them.
fn axes(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if let Some(axes) = take_ints(&mut node, "axes").filter(|axes| !axes.is_empty()) {
        set_input(&mut node, 1, old.builder.ints(&axes).id());
    }
    Ok(node)
}

/// Training was asked for by using the other outputs, of which there were four; `spatial = 0` went away in opset 9.
fn batch_normalization(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if take(&mut node, "spatial").and_then(|attr| attr.as_int()) == Some(0) {
        return Err("statistics for each element (spatial = 0) exist no more".into());
    }
    if old.node.outputs.iter().skip(1).any(Option::is_some) {
        return Err("it computes statistics, as while training".into());
    }
    Ok(node)
}

/// The type was a name before opset 6, and some exporters went on so.
fn cast(_: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if let Some(name) = node.str("to") {
        let named = |dtype: &DType| dtype.name().eq_ignore_ascii_case(name);
        let dtype = (0..).map_while(|code| DType::from_code(code + 1)).find(named).ok_or_else(|| format!("no type is named {name}"))?;
        node.attrs.insert("to".into(), Attr::Int(dtype.code().into()));
    }
    Ok(node)
}

/// The bounds were attributes.
fn clip(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    for (index, name) in [(1, "min"), (2, "max")] {
        if let Some(Attr::Float(bound)) = take(&mut node, name) {
            let dtype = old.input(0)?.fact().dtype.ok_or("the type of its input is unknown")?;
            set_input(&mut node, index, old.builder.number(bound.into(), dtype).id());
        }
    }
    Ok(node)
}

/// It never dropped anything then. The mask was of the input's type before opset 10.
fn dropout(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if old.opset < 10 && old.node.output(1).is_some() {
        return Err("its mask is not a boolean one".into());
    }
    take(&mut node, "ratio");
    Ok(node)
}

/// `Softmax` and its kin flattened the axes from `axis` (default 1) on into one.
fn along_the_last_axis(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    let x = old.input(0)?;
    let axis = old.node.int("axis", 1);
    let last = x.dims().is_some_and(|dims| i64::try_from(dims.len()).ok() == axis.checked_add(1));
    node.attrs.insert("axis".into(), Attr::Int(-1));
    if last || axis == -1 {
        return Ok(node);
    }
    let rows = old.builder.op("Flatten", &[x], &[("axis", Attr::Int(axis))]);
    let result = old.builder.op(&node.op, &[rows], &[("axis", Attr::Int(-1))]);
    let shape = old.builder.op("Shape", &[x], &[]);
    Ok(Node { op: "Reshape".into(), inputs: vec![Some(result.id()), Some(shape.id())], attrs: [].into(), extra: None, ..node })
}

/// Before there was `Range`, `0, 1, .., n - 1` were the places of `n` ones.
fn non_zero(old: &Old<'_>, node: Node) -> Result<Node, Refusal> {
    let x = old.input(0)?;
    let filled = old.graph.producer(x.id()).map(|id| old.graph.node(id)).filter(|maker| &*maker.op == "ConstantOfShape");
    let is_vector = x.dims().is_some_and(|dims| dims.len() == 1);
    let Some(Attr::Tensor(value)) = filled.and_then(|maker| maker.attrs.get("value")) else { return Ok(node) };
    let count = filled.and_then(|maker| maker.input(0)).map(|count| old.builder.expr(count).squeeze(&[0]));
    match (count, value.to_f64().as_deref()) {
        (Some(count), Some(&[value])) if is_vector && value != 0.0 => {
            let places = count.range_from(old.builder.int(0));
            let row = old.builder.ints(&[0]);
            Ok(Node { op: "Unsqueeze".into(), inputs: vec![Some(places.id()), Some(row.id())], attrs: [].into(), extra: None, ..node })
        }
        _ => Ok(node),
    }
}

/// Pads and the value were attributes.
fn pad(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    let pads = take_ints(&mut node, "pads").ok_or("it has no pads")?;
    set_input(&mut node, 1, old.builder.ints(&pads).id());
    if let Some(Attr::Float(value)) = take(&mut node, "value").filter(|value| *value != Attr::Float(0.0)) {
        let dtype = old.input(0)?.fact().dtype.ok_or("the type of its input is unknown")?;
        set_input(&mut node, 2, old.builder.number(value.into(), dtype).id());
    }
    Ok(node)
}

/// Opset 10 had scales as the second input. Until opset 13, inputs that were not meant were empty tensors.
fn resize(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if old.opset < 11 {
        let scales = old.input(1)?;
        return stretched(node, scales, old.constant(scales));
    }
    for input in node.inputs.iter_mut().skip(1) {
        let empty = input.and_then(|id| old.graph.constant(id)).is_some_and(Tensor::is_empty);
        if empty {
            *input = None;
        }
    }
    Ok(node)
}

/// Scales were an attribute before opset 9; the operator is called `Resize` since opset 10.
fn upsample(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    if let Some(Attr::Floats(scales)) = take(&mut node, "scales") {
        let scales = Tensor::from_f32(&[scales.len()], &scales);
        let known = scales.to_f64();
        return stretched(node, old.builder.constant(scales), known);
    }
    let scales = old.input(1)?;
    stretched(node, scales, old.constant(scales))
}

/// `Resize` as it was before one could say how: coordinates divided by the scale. Rounding of the nearest one was left to the runtime;
/// ONNX Runtime's rounds down where it enlarges and up where it shrinks.
fn stretched(mut node: Node, scales: Expr<'_>, known: Option<Vec<f64>>) -> Result<Node, Refusal> {
    node.op = "Resize".into();
    node.attrs.insert("coordinate_transformation_mode".into(), "asymmetric".into());
    if node.str("mode").is_none_or(|mode| mode == "nearest") {
        let known = known.ok_or("its scales are not constant")?;
        let rounding = match (known.iter().any(|&scale| scale > 1.0), known.iter().any(|&scale| scale < 1.0)) {
            (_, false) => "floor",
            (false, true) => "ceil",
            (true, true) => return Err("it enlarges one axis and shrinks another".into()),
        };
        node.attrs.insert("nearest_mode".into(), rounding.into());
    }
    node.inputs = vec![node.input(0), None, Some(scales.id())];
    Ok(node)
}

/// Coordinates were not shifted by half a pixel.
fn roi_align(_: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    node.attrs.entry("coordinate_transformation_mode".into()).or_insert_with(|| "output_half_pixel".into());
    Ok(node)
}

/// Opset 8's had a batch axis around everything.
fn scan(_: &Old<'_>, _: Node) -> Result<Node, Refusal> {
    Err("it scans batches of sequences of different lengths".into())
}

/// The name was changed in opset 11.
fn scatter(_: &Old<'_>, node: Node) -> Result<Node, Refusal> {
    Ok(Node { op: "ScatterElements".into(), ..node })
}

/// Everything was an attribute.
fn slice(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    for (index, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        match take_ints(&mut node, name) {
            Some(values) => set_input(&mut node, index, old.builder.ints(&values).id()),
            None if name == "axes" => {}
            None => return Err(format!("it has no {name}").into()),
        }
    }
    Ok(node)
}

/// Lengths were an attribute before opset 13. Since opset 18 equal parts must be asked for by their number.
fn split(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    match take_ints(&mut node, "split") {
        Some(lengths) => set_input(&mut node, 1, old.builder.ints(&lengths).id()),
        None if node.input(1).is_some() => {}
        None => {
            let parts = i64::try_from(old.node.outputs.len()).map_err(|error| error.to_string())?;
            node.attrs.insert("num_outputs".into(), Attr::Int(parts));
        }
    }
    Ok(node)
}

/// The number of elements was an attribute.
fn top_k(old: &Old<'_>, mut node: Node) -> Result<Node, Refusal> {
    let k = take(&mut node, "k").and_then(|attr| attr.as_int()).ok_or("it has no k")?;
    set_input(&mut node, 1, old.builder.ints(&[k]).id());
    Ok(node)
}
