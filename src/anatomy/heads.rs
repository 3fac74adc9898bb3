//! Keys and values on their way from their projections into an attention.
//!
//! ```text
//! key [batch, kv heads, seq, size] → [Unsqueeze → Expand → Reshape] → [scale] → [Transpose] → product
//! ```

use super::scores::scaled;
use super::walk::{Found, NodeRef, ValueRef};
use super::{Axis, Heads};

/// The queries as their product with the keys reads them.
pub(super) fn queries(product: NodeRef<'_>) -> Found<Heads> {
    let operand = product.input(0)?;
    Ok(Heads { value: operand.id(), axes: with_rows(operand, [Axis::Seq, Axis::Size]) })
}

/// The keys as the product of queries and keys reads them.
pub(super) fn keys(product: NodeRef<'_>) -> Found<Heads> {
    let operand = product.input(1)?;
    let last = if product.node().int("transB", 0) == 0 { [Axis::Size, Axis::Seq] } else { [Axis::Seq, Axis::Size] };
    Ok(Heads { value: operand.id(), axes: with_rows(operand, last) })
}

/// The values as the product of probabilities and values reads them.
pub(super) fn values(product: NodeRef<'_>) -> Found<Heads> {
    let operand = product.input(1)?;
    Ok(Heads { value: operand.id(), axes: with_rows(operand, [Axis::Seq, Axis::Size]) })
}

/// The axes of an operand whose last two are known: a batch of heads stands in front, as one axis or two.
fn with_rows(operand: ValueRef<'_>, last: [Axis; 2]) -> Vec<Axis> {
    let rows: &[Axis] = match operand.fact().rank() {
        Some(3) => &[Axis::BatchHeads],
        _ => &[Axis::Batch, Axis::Heads],
    };
    [rows, &last].concat()
}

/// The same heads before scaling, transposition, and repetition for grouped queries: as a cache would hold them.
pub(super) fn unrepeated(operand: ValueRef<'_>, heads: &Heads) -> Heads {
    let (mut at, mut axes) = (operand, heads.axes.clone());
    while let Some((before, before_axes)) = at.producer().and_then(|node| step(node, &axes)) {
        (at, axes) = (before, before_axes);
    }
    Heads { value: at.id(), axes }
}

/// One operator back, if it is one that only moves heads, and they stay in front.
fn step<'g>(node: NodeRef<'g>, axes: &[Axis]) -> Option<(ValueRef<'g>, Vec<Axis>)> {
    match node.op() {
        "Cast" | "Identity" => Some((node.input(0).ok()?, axes.to_vec())),
        "Mul" | "Div" => Some((scaled(node).ok()?.0, axes.to_vec())),
        "Transpose" => {
            transposed(node, axes).filter(|(_, axes)| matches!(axes[..], [Axis::Batch, Axis::Heads, ..] | [Axis::BatchHeads, ..]))
        }
        "Reshape" => repeated(node).map(|before| (before, axes.to_vec())).or_else(|| regrouped(node, axes)),
        "Gather" => chosen(node, axes).map(|before| (before, axes.to_vec())),
        _ => None,
    }
}

fn transposed<'g>(node: NodeRef<'g>, axes: &[Axis]) -> Option<(ValueRef<'g>, Vec<Axis>)> {
    let perm = node.node().ints("perm").filter(|perm| perm.len() == axes.len())?;
    let place = |axis: usize| perm.iter().position(|&p| usize::try_from(p) == Ok(axis));
    let before = (0..axes.len()).map(|axis| place(axis).map(|at| axes[at])).collect::<Option<_>>()?;
    Some((node.input(0).ok()?, before))
}

/// `Unsqueeze → Expand | Tile → Reshape`: every head a few times.
fn repeated(reshape: NodeRef<'_>) -> Option<ValueRef<'_>> {
    let many = reshape.input(0).ok()?.from(&["Expand", "Tile"]).ok()?;
    let apart = many.input(0).ok()?.from(&["Unsqueeze", "Reshape"]).ok()?;
    let before = apart.input(0).ok()?;
    let same_rank = before.fact().rank() == reshape.output(0).ok()?.fact().rank();
    same_rank.then_some(before)
}

/// `Gather` of heads by constant indices: every head a few times.
fn chosen<'g>(node: NodeRef<'g>, axes: &[Axis]) -> Option<ValueRef<'g>> {
    let axis = usize::try_from(node.node().int("axis", 0)).ok()?;
    let is_heads = axes.get(axis) == Some(&Axis::Heads) && node.input(1).ok()?.is_constant();
    is_heads.then(|| node.input(0).ok()).flatten()
}

/// `Reshape` that makes one axis of batch and heads, or two of one.
fn regrouped<'g>(node: NodeRef<'g>, axes: &[Axis]) -> Option<(ValueRef<'g>, Vec<Axis>)> {
    let (before, after) = (node.input(0).ok()?, node.output(0).ok()?);
    let last_two = |value: ValueRef<'g>| value.fact().shape.as_ref().and_then(|shape| shape.last_chunk::<2>().cloned());
    let (inner, outer) = (last_two(before)?, last_two(after)?);
    // The length of a head is known; that of the sequence may be called differently on both sides.
    let same_size = inner.iter().zip(&outer).any(|(a, b)| a.as_known().is_some() && a == b);
    let agree = same_size && inner.iter().zip(&outer).all(|(a, b)| !a.surely_differs(b));
    let rows: &[Axis] = match (axes, before.fact().rank()?) {
        ([Axis::Batch, Axis::Heads, ..], 3) => &[Axis::BatchHeads],
        ([Axis::BatchHeads, ..], 4) => &[Axis::Batch, Axis::Heads],
        _ => return None,
    };
    agree.then(|| (before, [rows, &axes[axes.len() - 2..]].concat()))
}
