//! Rounded activations as they were before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{decompose, keep_names};
use crate::error::Result;
use crate::ir::{Attr, Builder, Expr, Graph, Node, Trait, ValueId};

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
    // What stands for a value that was rounded: one may be rounded again.
    let mut exact: BTreeMap<ValueId, Expr<'_>> = BTreeMap::new();
    for (_, node) in graph.node_ids().filter(|(_, node)| &*node.op == "DequantizeLinear") {
        let rounded = node.input(0).and_then(|id| graph.producer(id)).map(|id| graph.node(id));
        let Some(rounded) = rounded.filter(|node| Trait::Rounds.is_of(&node.op)) else { continue };
        let (Some(before), Some(after)) = (rounded.input(0), node.output(0)) else { continue };
        if b.is_constant(before) {
            continue;
        }
        let before = exact.get(&before).copied().unwrap_or_else(|| b.expr(before));
        let before = b.fact(after).dtype.map_or(before, |dtype| before.cast(dtype));
        b.rewire(b.expr(after), |_| before);
        exact.insert(after, before);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, ModelInfo, Tensor};

    #[test]
    fn what_is_rounded_twice_is_exact_again() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch")]);
        let (scale, zero) =
            (b.initializer("scale", Tensor::from_f32(&[], &[0.1])), b.initializer("zero", Tensor::from_f64(DType::U8, &[], &[0.0])?));
        let mut y = x;
        for _ in 0..2 {
            y = b.op("DequantizeLinear", &[b.op("QuantizeLinear", &[y, scale, zero], &[]), scale, zero], &[]);
        }
        b.output("y", y * 2.0);
        let exact = without_rounding(&b.finish()?)?.expect("something is rounded");
        assert!(exact.nodes().iter().all(|node| !Trait::Rounds.is_of(&node.op)), "{exact}");
        Ok(())
    }
}
