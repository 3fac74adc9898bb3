//! Nodes whose gradient together takes fewer passes than one after another.

use crate::ir::{Builder, Expr, Node, ValueId};

/// The value that a node is a function of together with the node before it, and the gradient with respect to it.
type Composite = for<'g> fn(&'g Builder, &Node, Expr<'g>) -> Option<(ValueId, Expr<'g>)>;

/// The operator of the last node, and what it is.
static COMPOSITES: &[(&str, Composite)] = &[("Mul", swish), ("Where", without_nan)];

/// The gradient of a node and the one before it, with `dy` that of the node's output.
pub(super) fn composite<'g>(b: &'g Builder, node: &Node, dy: Expr<'g>) -> Option<(ValueId, Expr<'g>)> {
    COMPOSITES.iter().filter(|(op, _)| *op == &*node.op).find_map(|(_, of)| of(b, node, dy))
}

/// `Y = x s` with `s = σ(x)`: `dX = dY (s + Y (1 - s))`.
fn swish<'g>(b: &'g Builder, node: &Node, dy: Expr<'g>) -> Option<(ValueId, Expr<'g>)> {
    let (first, second) = (node.input(0)?, node.input(1)?);
    let is_sigmoid = |s: ValueId, x: ValueId| b.maker(s).is_some_and(|maker| &*maker.op == "Sigmoid" && maker.input(0) == Some(x));
    let (x, s) = [(first, second), (second, first)].into_iter().find(|&(x, s)| is_sigmoid(s, x))?;
    let (y, s) = (b.expr(node.output(0)?), b.expr(s));
    Some((x, dy * (s + y * (1.0 - s))))
}

/// `Y = softmax(..)` with zeros for what is no number: `dX = dY`. The gradient of a softmax is multiplied by its output without such numbers
/// (`Sweep::guarded`), which is zero there.
fn without_nan<'g>(b: &'g Builder, node: &Node, dy: Expr<'g>) -> Option<(ValueId, Expr<'g>)> {
    let (condition, zero, x) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let test = b.maker(condition).filter(|test| &*test.op == "IsNaN" && test.input(0) == Some(x))?;
    let is_softmax = b.maker(x).is_some_and(|maker| &*maker.op == "Softmax");
    let is_zero = b.constant_of(zero).and_then(|tensor| tensor.scalar()) == Some(0.0);
    (is_softmax && is_zero && test.writes().count() == 1).then_some((x, dy))
}
