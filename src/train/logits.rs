//! Logits that a graph keeps inside, where it gives only the probabilities that it makes of them.

use crate::Result;
use crate::anatomy::{Anatomy, Head};
use crate::ir::{Builder, Expr, Graph};

/// The name of the output that the logits get.
pub const SHOWN: &str = "peft/logits";

/// The graph with its logits among its outputs, as [`SHOWN`]; nothing if they are there. Values keep their ids.
///
/// A loss is taken of these: `-log p` of a probability that was rounded to 0 is infinite, and its gradient lost.
///
/// # Errors
/// A graph that cannot be written on.
pub fn shown(graph: &Graph, anatomy: &Anatomy) -> Result<Option<Graph>> {
    let Some(head) = anatomy.head.as_ref().filter(|head| !graph.is_output(head.logits)) else { return Ok(None) };
    let b = Builder::on(graph);
    let inside = b.expr(head.logits);
    let logits = match head.output_axes(graph) {
        Some(axes) => b.scoped("logits", || inside.reshape_to(b.expr(head.output).shape_of_axes(&axes))),
        None => inside,
    };
    b.output(SHOWN, logits);
    b.finish().map(Some)
}

/// The logits: an output of the graph, either its own or the one that [`shown`] added.
#[must_use]
pub fn of<'g>(b: &'g Builder, graph: &Graph, head: &Head) -> Expr<'g> {
    let given = b.output_named(graph.value_name(head.logits)).or_else(|| b.output_named(SHOWN));
    given.unwrap_or_else(|| b.expr(head.logits))
}
