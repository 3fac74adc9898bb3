//! Half-precision graphs, computed in float32 for training.
//!
//! Gradients of float16 underflow, and ONNX Runtime's processor computes in neither half precision. Weights stay as they are stored: each
//! product upcasts its own, for as long as it runs.

use std::sync::Arc;

use crate::Result;
use crate::ir::{Attr, Builder, DType, Fact, Graph, Node, Tensor, ValueId};

/// Constants of up to this many numbers are upcast where they are stored.
const SMALL: usize = 1024;

/// Attributes that name the type of an output.
const TYPES: &[&str] = &["to", "dtype", "output_dtype", "output_datatype"];

/// The same graph with everything computed in float32 that was computed in float16 or bfloat16; inputs and outputs too. Nothing if the
/// graph has neither. Values keep their ids.
///
/// # Errors
/// Nodes that do not go together in float32.
pub fn upcast(graph: &Graph) -> Result<Option<Graph>> {
    let computes_in_half = graph.values().iter().any(|value| value.fact.dtype.is_some_and(is_half));
    computes_in_half.then(|| upcast_all(graph)).transpose()
}

fn upcast_all(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    for &id in graph.inputs().iter().chain(graph.captured()) {
        upcast_fact(&b, id);
    }
    for (id, tensor) in graph.initializers().filter(|(_, tensor)| is_half(tensor.dtype())) {
        match small(tensor) {
            Some(tensor) => b.set_initializer(id, tensor),
            None => b.rewire(b.expr(id), |stored| stored.cast(DType::F32)),
        }
    }
    for node in graph.nodes() {
        let (Some(output), Some(form)) = (node.writes().next(), form(&b, node)?) else { continue };
        b.replace_node(output, form);
    }
    graph.nodes().iter().for_each(|node| upcast_rows(&b, graph, node));
    for node in graph.nodes() {
        node.writes().for_each(|id| upcast_fact(&b, id));
    }
    b.infer_again();
    b.finish()
}

/// Rows are read from a table before they are upcast, not after.
fn upcast_rows(b: &Builder, graph: &Graph, node: &Node) {
    let (Some(table), Some(indices), Some(rows)) = (node.input(0), node.input(1), node.output(0)) else { return };
    let is_large = graph.initializer(table).is_some_and(|tensor| is_half(tensor.dtype()) && tensor.len() > SMALL);
    if &*node.op == "Gather" && is_large {
        let attrs: Vec<(&str, Attr)> = node.attrs.iter().map(|(name, attr)| (&**name, attr.clone())).collect();
        let wide = b.op("Gather", &[b.expr(table), b.expr(indices)], &attrs).cast(DType::F32);
        b.take_over(b.expr(rows), wide);
    }
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn upcast_fact(b: &Builder, id: ValueId) {
    let fact = b.fact(id);
    if fact.dtype.is_some_and(is_half) {
        b.assume(id, Fact { dtype: Some(DType::F32), ..fact });
    }
}

/// A constant in float32, if it has few numbers.
fn small(tensor: &Tensor) -> Option<Tensor> {
    let few = is_half(tensor.dtype()) && tensor.len() <= SMALL;
    few.then(|| tensor.to_f32()).flatten().map(|numbers| Tensor::from_f32(tensor.shape(), &numbers))
}

/// A node whose attributes name a type, hold numbers or bodies, in float32.
fn form(b: &Builder, node: &Node) -> Result<Option<Node>> {
    let mut new = read_again(b, node);
    let mut changed = false;
    for (name, attr) in &mut new.attrs {
        let wide = match attr {
            Attr::Int(code) if TYPES.contains(&&**name) && half_code(*code) => Attr::Int(DType::F32.code().into()),
            Attr::Tensor(tensor) if is_half(tensor.dtype()) => {
                let numbers = tensor.to_f32().unwrap_or_default();
                Attr::Tensor(Tensor::from_f32(tensor.shape(), &numbers))
            }
            Attr::Graph(body) => Attr::Graph(Arc::new(upcast_all(body)?)),
            Attr::Graphs(bodies) => Attr::Graphs(bodies.iter().map(|body| upcast_all(body).map(Arc::new)).collect::<Result<_>>()?),
            _ => continue,
        };
        *attr = wide;
        changed = true;
    }
    Ok(changed.then_some(new))
}

/// The node as it is in the builder, where its inputs may be others by now.
fn read_again(b: &Builder, node: &Node) -> Node {
    node.writes().next().and_then(|output| b.maker(output)).unwrap_or_else(|| node.clone())
}

fn half_code(code: i64) -> bool {
    i32::try_from(code).ok().and_then(DType::from_code).is_some_and(is_half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Dim, ModelInfo};

    #[test]
    fn weights_stay_and_everything_else_is_wide() -> Result<()> {
        for half in [DType::F16, DType::BF16] {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", half, &[Dim::symbol("batch"), Dim::known(64)]);
            let stored = Tensor::from_f64(half, &[64, 32], &[0.5; 64 * 32])?;
            let weight = b.initializer("w", stored.clone()).id();
            let row = b.expr(weight).gather(b.input("at", DType::I64, &[]), 0).id();
            b.output("row", b.expr(row));
            let bias = b.initializer("b", Tensor::from_f64(half, &[32], &[0.25; 32])?).id();
            let y = x.matmul(b.expr(weight)) + b.expr(bias);
            b.output("y", (y.cast(DType::F32).tanh().cast(half) * 2.0).filled_like(1.0) * y);
            let graph = upcast(&b.finish()?)?.expect("it computes in half precision");
            assert_eq!(graph.initializer(weight), Some(&stored), "the weight is stored as it was");
            assert_eq!(graph.initializer(bias).map(Tensor::dtype), Some(DType::F32));
            let of_halves = |id: crate::ir::ValueId| graph.fact(id).dtype == Some(half) && id != weight;
            let halves = graph.nodes().iter().filter(|node| node.reads().any(of_halves)).map(|node| &*node.op);
            assert_eq!(halves.collect::<Vec<_>>(), ["Cast"], "the row is upcast when it was read");
            assert_eq!(graph.outputs().iter().map(|&id| graph.fact(id).to_string()).collect::<Vec<_>>(), ["float[32]", "float[batch, 32]"]);
        }
        Ok(())
    }

    #[test]
    fn bodies_are_wide_too() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F16, &[Dim::known(4)]);
        let c = b.input("c", DType::Bool, &[]);
        let branch = |name: &str| {
            let body = b.body(name);
            let y = body.capture(x) * 2.0;
            body.output(&format!("{name}_y"), y);
            body.finish_body()
        };
        let y = b.op_with_bodies("If", &[Some(c)], vec![("then_branch", branch("t")?), ("else_branch", branch("e")?)], 1);
        b.output("y", y[0]);
        let graph = upcast(&b.finish()?)?.expect("it computes in half precision");
        assert_eq!(graph.fact(graph.outputs()[0]).to_string(), "float[4]");
        Ok(())
    }
}
