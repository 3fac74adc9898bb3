//! Rounded activations as they were before.

use std::sync::Arc;

use super::{decompose, keep_names};
use crate::error::Result;
use crate::ir::{Attr, Builder, Graph, Node, Trait};

/// The graph with fused operators decomposed and without the rounding of what is computed, or nothing if it rounds nothing. Constants stay
/// rounded.
///
/// Rounding makes a step of a difference in the last bit, so that two ways to compute the same are told from two models only without it.
///
/// # Errors
/// Nodes that do not go together.
pub fn without_rounding(graph: &Graph) -> Result<Option<Graph>> {
    unrounded(&decompose(graph)?)
}

fn unrounded(graph: &Graph) -> Result<Option<Graph>> {
    let b = Builder::on(graph);
    let mut is_rounded = false;
    for (_, node) in graph.node_ids().filter(|(_, node)| &*node.op == "DequantizeLinear") {
        let rounded = node.input(0).and_then(|id| graph.producer(id)).map(|id| graph.node(id));
        let Some(rounded) = rounded.filter(|node| Trait::Rounds.is_of(&node.op)) else { continue };
        let (Some(before), Some(after)) = (rounded.input(0), node.output(0)) else { continue };
        if b.is_constant(before) {
            continue;
        }
        let dtype = b.fact(after).dtype;
        b.rewire(b.expr(after), |_| dtype.map_or(b.expr(before), |dtype| b.expr(before).cast(dtype)));
        is_rounded = true;
    }
    for node in graph.nodes() {
        if let (Some(form), Some(output)) = (inside(node)?, node.writes().next()) {
            b.replace_node(output, form);
            is_rounded = true;
        }
    }
    keep_names(&b, graph);
    if is_rounded { b.finish().map(Some) } else { Ok(None) }
}

/// The node without the rounding in its bodies, if there is any.
fn inside(node: &Node) -> Result<Option<Node>> {
    let mut new = node.clone();
    let mut is_rounded = false;
    let mut inner = |body: &mut Arc<Graph>| -> Result<()> {
        if let Some(unrounded) = unrounded(body)? {
            *body = Arc::new(unrounded);
            is_rounded = true;
        }
        Ok(())
    };
    for attr in new.attrs.values_mut() {
        match attr {
            Attr::Graph(body) => inner(body)?,
            Attr::Graphs(bodies) => bodies.iter_mut().try_for_each(&mut inner)?,
            _ => {}
        }
    }
    Ok(is_rounded.then_some(new))
}

/// Whether kernels of fused operators round what they compute, which leaves no trace when they are decomposed: products with packed weights at
/// `accuracy_level` 4.
#[must_use]
pub fn rounds_inside(graph: &Graph) -> bool {
    const INT8: i64 = 4;
    graph.nodes().iter().any(|node| {
        (&*node.op == "com.microsoft:MatMulNBits" && node.int("accuracy_level", 0) == INT8)
            || node.attrs.values().flat_map(Attr::graphs).any(|body| rounds_inside(body))
    })
}
