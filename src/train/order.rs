//! The order of a training graph's nodes, which decides its peak memory.
//!
//! ONNX Runtime executes a graph depth first from its ends, and of the nodes that a node waits for it takes the one that stands last in the
//! file. The gradient ends in one `Concat` of every trainable tensor's part. Were the first layer's part to stand last, it would be computed
//! first, after the whole backward pass, and every layer would keep what its own parts are computed from until then. So the parts stand
//! in the order of the layers: the last layer's is computed first, as soon as the backward pass has been there, and its operands are free.

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

/// Moves the nodes that work for one part of `gradient` alone right before the node that joins the parts, those of the last layers last.
///
/// Leaves a graph alone whose gradient is not joined from parts.
#[must_use]
pub(super) fn parts_last(graph: Graph, gradient: ValueId) -> Graph {
    let Some(join) = graph.producer(gradient).filter(|&node| &*graph.node(node).op == "Concat") else { return graph };
    let works = works(&graph, join);
    let mut first = vec![usize::MAX; graph.node(join).inputs.len()];
    for (place, works) in works.iter().enumerate() {
        if let Works::Part(part) = works {
            first[*part] = first[*part].min(place);
        }
    }
    // Before the parts; the parts, those that the backward pass reached first behind the others; the join and what follows.
    let key = |place: usize| match works[place] {
        Works::Part(part) => (1, usize::MAX - first[part], place),
        _ if place < join.index() => (0, 0, place),
        _ => (2, 0, place),
    };
    let mut order: Vec<NodeId> = graph.node_ids().map(|(id, _)| id).collect();
    order.sort_by_key(|id| key(id.index()));
    graph.in_order(&order)
}

fn works(graph: &Graph, join: NodeId) -> Vec<Works> {
    let mut works = vec![Works::Nobody; graph.nodes().len()];
    for (id, node) in graph.node_ids().collect::<Vec<_>>().into_iter().rev() {
        for output in node.writes() {
            let mut of_output = if graph.outputs().contains(&output) { Works::Many } else { Works::Nobody };
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
