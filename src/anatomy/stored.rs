//! The constant behind a weight that is not stored as it is read: in another type or layout, or as small integers and a scale.
//!
//! ```text
//! floats:    W → [Identity | Cast | Transpose | Reshape]*
//! integers:  W → [Cast | Transpose | Reshape | Slice | Sub zero]* → DequantizeLinear | Mul scale → [Identity | Cast | Transpose | Reshape]*
//! ```

use crate::ir::Tensor;

use super::Layout;
use super::walk::{Found, NodeRef, ValueRef};

/// Steps that keep the numbers as they are.
const PLAIN: &[&str] = &["Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];
/// Steps from small integers to the numbers that they stand for.
const DEQUANTISING: &[&str] = &["DequantizeLinear", "Mul", "Div", "Sub", "Add", "Slice", "Pad"];
/// The steps that multiply with the scale.
const SCALING: &[&str] = &["DequantizeLinear", "Mul", "Div"];

/// A stored constant, and what happens to it on the way.
#[derive(Clone, Copy)]
pub(super) struct Stored<'g> {
    /// The constant.
    pub(super) value: ValueRef<'g>,
    /// `InOut` if its axes are in the order in which they are read.
    pub(super) layout: Layout,
    /// Whether numbers are read that a scale was multiplied with.
    pub(super) is_scaled: bool,
}

impl<'g> Stored<'g> {
    /// The constant's data.
    pub(super) fn tensor(self) -> Option<&'g Tensor> {
        self.value.stored()
    }

    /// Whether it holds the numbers themselves.
    pub(super) fn is_floats(self) -> bool {
        self.tensor().is_some_and(|tensor| tensor.dtype().is_float())
    }
}

/// The constant behind a value: floats that are read as they are, or integers, whose scale may come later.
pub(super) fn behind(value: ValueRef<'_>) -> Found<Stored<'_>> {
    let (mut at, mut layout, mut is_packed, mut is_scaled) = (value, Layout::InOut, false, false);
    // Whether the next step down is next to what was read so far: only the constant itself may be reshaped, so that its order is that of a matrix.
    let mut is_reshaped = false;
    while at.stored().is_none() {
        if let Ok(codes) = at.from(&["Gather"]).and_then(codes) {
            (at, is_packed) = (codes, true);
            continue;
        }
        let node = at.from(&[PLAIN, DEQUANTISING].concat())?;
        if node.is(&["Transpose"]) {
            if is_reshaped && !is_packed {
                return Err(node.miss("a constant that is reshaped before anything else"));
            }
            layout = layout.swapped();
        }
        is_reshaped |= node.is(&["Reshape", "Flatten", "Squeeze", "Unsqueeze"]);
        is_packed |= node.is(DEQUANTISING);
        is_scaled |= node.is(SCALING);
        at = operand(node)?;
    }
    let stored = Stored { value: at, layout, is_scaled };
    let is_weight = if stored.is_floats() { !is_packed } else { at.stored().is_some_and(is_small) };
    if is_weight { Ok(stored) } else { Err(at.miss("a constant of floats, or of integers that stand for floats")) }
}

/// The places in a table of numbers where those of a weight are looked up (NF4).
fn codes(node: NodeRef<'_>) -> Found<ValueRef<'_>> {
    let (numbers, codes) = (node.input(0)?, node.input(1)?.behind(PLAIN));
    let is_coded = numbers.is_constant() && codes.stored().is_some_and(is_small);
    if is_coded { Ok(codes) } else { Err(node.miss("small integers that stand for numbers of a table")) }
}

/// Elements of at most 8 bits that are numbers; wider ones are indices.
fn is_small(tensor: &Tensor) -> bool {
    let dtype = tensor.dtype();
    dtype.bits() <= 8 && dtype != crate::ir::DType::Bool
}

/// The input that the weight comes from: of two factors, the one that has as many numbers as the product.
fn operand(node: NodeRef<'_>) -> Found<ValueRef<'_>> {
    let first = node.input(0)?;
    if !node.is(&["Mul", "Add"]) {
        return Ok(first);
    }
    let second = node.input(1)?;
    let size = |value: ValueRef<'_>| value.fact().known_shape().map(|shape| shape.iter().copied().fold(1, i64::saturating_mul));
    Ok(if size(second) > size(first) { second } else { first })
}

/// The numbers that a row of small integers stands for, where they are dequantised after the row was read. `Gather` on the second axis of a table
/// puts the row's numbers first, and a `Transpose` puts them behind again.
pub(super) fn dequantised(row: ValueRef<'_>) -> Found<ValueRef<'_>> {
    let (mut at, mut is_scaled) = (row, false);
    loop {
        let next = at.into(&[PLAIN, DEQUANTISING].concat());
        match next {
            Ok(node) if !is_scaled || node.is(&["Transpose"]) => {
                is_scaled |= node.is(SCALING);
                at = node.output(0)?;
            }
            _ if is_scaled => return Ok(at),
            Ok(_) => return Err(at.miss("a scale for small integers")),
            Err(miss) => return Err(miss),
        }
    }
}
