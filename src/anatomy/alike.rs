//! Whether two values are the same numbers.

use crate::ir::Trait;

use super::walk::{NodeRef, ValueRef};

/// `x * x`.
pub(super) fn is_square(node: NodeRef<'_>) -> bool {
    matches!((node.input(0), node.input(1)), (Ok(one), Ok(other)) if is_equal(one, other))
}

/// Nodes up to which two values are compared.
const DEPTH: usize = 3;

/// Whether two values are one, or are made alike of the same.
pub(super) fn is_equal(one: ValueRef<'_>, other: ValueRef<'_>) -> bool {
    is_equal_within(one, other, DEPTH)
}

fn is_equal_within(one: ValueRef<'_>, other: ValueRef<'_>, depth: usize) -> bool {
    if one.id() == other.id() {
        return true;
    }
    let (Some(first), Some(second)) = (one.producer().filter(|_| depth > 0), other.producer()) else { return false };
    let (a, b) = (first.node(), second.node());
    let is_one = a.outputs.len() == 1 && b.outputs.len() == 1 && !first.has(Trait::Random);
    let has_as_many = a.inputs.iter().map(Option::is_some).eq(b.inputs.iter().map(Option::is_some));
    is_one
        && has_as_many
        && a.op == b.op
        && a.attrs == b.attrs
        && first.inputs().zip(second.inputs()).all(|(one, other)| is_equal_within(one, other, depth - 1))
}
