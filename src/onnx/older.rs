//! A node of an older operator set, and how its form is changed.

use crate::error::Refusal;
use crate::ir::{Attr, Builder, Expr, Graph, Node, ValueId};

/// A node in an old form.
pub(super) struct Old<'a> {
    pub(super) builder: &'a Builder,
    /// The graph as it was.
    pub(super) graph: &'a Graph,
    pub(super) node: &'a Node,
    /// The opset that the node is written in.
    pub(super) opset: i64,
}

/// Gives a node the form it has had since opset 18. It may write nodes before it; the outputs stay. The error is why it cannot be.
pub(super) type Raise = fn(&Old<'_>, Node) -> Result<Node, Refusal>;

impl<'a> Old<'a> {
    /// An input of the node.
    pub(super) fn input(&self, index: usize) -> Result<Expr<'a>, Refusal> {
        self.node.input(index).map(|id| self.builder.expr(id)).ok_or_else(|| format!("input {index} is missing").into())
    }

    /// The numbers of a constant.
    pub(super) fn constant(&self, value: Expr<'_>) -> Option<Vec<f64>> {
        self.graph.constant(value.id())?.to_f64()
    }
}

/// Puts a value into an input, which may lie beyond the last one so far.
pub(super) fn set_input(node: &mut Node, index: usize, value: ValueId) {
    node.inputs.resize(node.inputs.len().max(index + 1), None);
    node.inputs[index] = Some(value);
}

/// Takes an attribute away.
pub(super) fn take(node: &mut Node, name: &str) -> Option<Attr> {
    node.attrs.shift_remove(name)
}

/// Takes a list of whole numbers away.
pub(super) fn take_ints(node: &mut Node, name: &str) -> Option<Vec<i64>> {
    match take(node, name)? {
        Attr::Ints(values) => Some(values),
        _ => None,
    }
}
