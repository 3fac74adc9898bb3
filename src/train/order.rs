//! The order of a training graph's nodes, which decides its peak memory.
//!
//! ONNX Runtime executes a graph depth first from its ends, and of the nodes that a node waits for it takes the one that stands last in the
//! file. The gradient ends in one `Concat` of every trainable tensor's part. Were the first layer's part to stand last, it would be computed
//! first, after the whole backward pass, and every layer would keep what its own parts are computed from until then. So the parts stand
//! in the order of the layers: the last layer's is computed first, as soon as the backward pass has been there, and its operands are free.
//! For the same reason what dequantises weights stands before everything else.

use crate::ir::{Graph, NodeId, ValueId};

/// Which parts of the gradient a node works for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Works {
    /// For nothing seen so far.
    Nobody,
    /// For one part alone.
    Part(usize),
    /// For several, or for something else too.
    Many,
}

impl Works {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, other) => other,
            (works, Self::Nobody) => works,
            (works, other) if works == other => works,
            _ => Self::Many,
        }
    }
}

/// Moves what follows from constants alone before everything else; and the nodes that work for one part of `gradient` alone right before
/// the node that joins the parts, those of the last layers last. Parts stay where a gradient is not joined from any.
#[must_use]
pub(super) fn parts_last(graph: Graph, gradient: ValueId) -> Graph {
    // Parts are joined row by row; the vector is a view of that.
    let mut joined = gradient;
    while let Some(view) = graph.producer(joined).map(|node| graph.node(node)).filter(|node| &*node.op == "Reshape") {
        let Some(source) = view.input(0) else { break };
        joined = source;
    }
    let join = graph.producer(joined).filter(|&node| &*graph.node(node).op == "Concat");
    let Some(join) = join else { return weights_first(graph) };
    let (fixed, works) = (fixed(&graph), works(&graph, join));
    let mut first = vec![usize::MAX; graph.node(join).inputs.len()];
    for (place, works) in works.iter().enumerate() {
        if let (Works::Part(part), false) = (works, fixed[place]) {
            first[*part] = first[*part].min(place);
        }
    }
    // What is fixed; before the parts; the parts, those that the backward pass reached first behind the others; the join and what follows.
    sorted_by(graph, |place| match works[place] {
        _ if fixed[place] => (0, 0, place),
        Works::Part(part) => (2, usize::MAX - first[part], place),
        _ if place < join.index() => (1, 0, place),
        _ => (3, 0, place),
    })
}

/// Moves what follows from constants alone before everything else, such as the nodes that dequantise weights.
///
/// Of a product that waits for its activations and for its weight, the one that stands later is computed first. Were that the weight,
/// the weights of all layers would be dequantised before the first one is used.
#[must_use]
pub(super) fn weights_first(graph: Graph) -> Graph {
    let fixed = fixed(&graph);
    sorted_by(graph, |place| (usize::from(!fixed[place]), 0, place))
}

fn sorted_by(graph: Graph, key: impl Fn(usize) -> (usize, usize, usize)) -> Graph {
    let mut order: Vec<NodeId> = graph.node_ids().map(|(id, _)| id).collect();
    order.sort_by_key(|id| key(id.index()));
    graph.in_order(&order)
}

/// Which nodes read nothing but constants and what follows from them.
fn fixed(graph: &Graph) -> Vec<bool> {
    let mut fixed: Vec<bool> = vec![];
    for node in graph.nodes() {
        let is_fixed = |value| match graph.producer(value) {
            Some(maker) => fixed[maker.index()],
            None => graph.constant(value).is_some(),
        };
        let all = node.reads().all(is_fixed);
        fixed.push(all);
    }
    fixed
}

fn works(graph: &Graph, join: NodeId) -> Vec<Works> {
    let mut works = vec![Works::Nobody; graph.nodes().len()];
    for (id, node) in graph.node_ids().collect::<Vec<_>>().into_iter().rev() {
        for output in node.writes() {
            let mut of_output = if graph.is_output(output) { Works::Many } else { Works::Nobody };
            for reader in graph.uses(output) {
                of_output = of_output.and(match reader.input {
                    Some(part) if reader.node == join => Works::Part(part),
                    _ => works[reader.node.index()],
                });
            }
            works[id.index()] = works[id.index()].and(of_output);
        }
    }
    works
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::ir::{Attr, Builder, DType, Dim, ModelInfo, Tensor};

    #[test]
    fn weights_are_dequantised_before_anything_else_stands() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
        let first = x.tanh();
        let stored = b.initializer("w", Tensor::from_f64(DType::I8, &[4, 4], &[1.0; 16])?);
        let weight = b.op("DequantizeLinear", &[stored, b.number(0.5, DType::F32)], &[("axis", Attr::Int(0))]).t();
        b.output("y", first.matmul(weight));
        let graph = weights_first(b.finish()?);
        let ops: Vec<&str> = graph.nodes().iter().map(|node| &*node.op).collect();
        assert_eq!(ops, ["DequantizeLinear", "Transpose", "Tanh", "MatMul"]);
        Ok(())
    }
}
