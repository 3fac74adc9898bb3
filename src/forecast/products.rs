//! The arithmetic of a graph's products.

use super::known::Settled;
use crate::ir::{Attr, Graph, Node};
use crate::num;

/// Multiplications and additions of the products of a graph, its bodies' as often as they run.
pub(super) fn operations(graph: &Graph, settled: &Settled) -> f64 {
    graph.nodes().iter().enumerate().map(|(place, node)| of_node(node, place, settled)).sum()
}

fn of_node(node: &Node, place: usize, settled: &Settled) -> f64 {
    let shape = |at: usize| node.input(at).and_then(|id| settled.shape(id)).unwrap_or_default();
    let output = || node.output(0).and_then(|id| settled.shape(id)).unwrap_or_default();
    let inner = |at_end: i64| {
        let dims = shape(0);
        dims.len().checked_sub(usize::try_from(at_end).unwrap_or(1)).and_then(|at| dims.get(at)).copied().unwrap_or(1)
    };
    match (&*node.op, node.attrs.get("body")) {
        ("MatMul", _) => 2.0 * elements(&output()) * exact(inner(1)),
        ("Gemm", _) => 2.0 * elements(&output()) * exact(inner(if node.int("transA", 0) == 0 { 1 } else { 2 })),
        ("Conv", _) => 2.0 * elements(&output()) * elements(shape(1).get(1..).unwrap_or_default()),
        // Queries with keys, and weights with values; the backward pass is decomposed.
        ("Attention", _) => {
            let (queries, keys) = (shape(0), shape(1));
            let length = keys.len().checked_sub(2).map_or(1, |at| keys[at]);
            4.0 * elements(&queries) * exact(length)
        }
        ("Scan", Some(Attr::Graph(body))) => {
            let rounds = rounds(node, settled);
            settled.bodies.get(&place).map_or(0.0, |inner| operations(body, inner) * rounds)
        }
        _ => 0.0,
    }
}

/// How often a `Scan` runs its body.
fn rounds(node: &Node, settled: &Settled) -> f64 {
    let read = num::index(node.int("num_scan_inputs", 0)).min(node.inputs.len());
    let first = node.inputs.len().checked_sub(read).and_then(|at| node.input(at));
    let axis = node.ints("scan_input_axes").and_then(|axes| axes.first().copied()).unwrap_or(0);
    let length = first.and_then(|id| settled.shape(id)?.get(usize::try_from(axis).ok()?).copied());
    exact(length.unwrap_or(1))
}

fn elements(shape: &[i64]) -> f64 {
    shape.iter().map(|&length| exact(length)).product()
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "an estimate")]
fn exact(number: i64) -> f64 {
    number as f64
}
