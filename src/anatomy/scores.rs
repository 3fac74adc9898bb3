//! What stands between the product of queries and keys and the softmax: scale and masks.
//!
//! ```text
//! MatMul → [Mul | Div scale]* → [Add mask | Where mask]* → [Cast | Reshape | Tanh ..]* → Softmax
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::walk::{Found, NodeRef, ValueRef};
use super::{Mask, Masking};
use crate::ir::{Trait, ValueId};

/// Whether an operator may be the product of queries and keys: one of any rank.
pub(super) fn is_product(op: &str) -> bool {
    Trait::Product.is_of(op) && op != "Gemm"
}

/// Operators between product and softmax that change neither the order nor the scale of the scores (a soft cap scales down and up again).
const NEUTRAL: &[&str] =
    &["Cast", "Identity", "Dropout", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Max", "Min", "Clip", "Tanh", "Concat", "Slice"];

/// Steps that are walked before the search gives up; masks are dead ends that may be long.
const MAX_STEPS: usize = 24;

/// The scores of one attention.
#[derive(Clone)]
pub(super) struct Scores<'g> {
    /// The product of queries and keys.
    pub(super) product: NodeRef<'g>,
    /// What the product is multiplied with; `None` if a factor is not known.
    pub(super) scale: Option<f64>,
    /// From the product on.
    pub(super) masks: Vec<Mask>,
}

/// The product behind a softmax's input.
pub(super) fn behind(value: ValueRef<'_>) -> Found<Scores<'_>> {
    search(value, MAX_STEPS, &RefCell::default())
}

/// Values behind which nothing was found, with the steps that were left: ways that meet again are walked once.
type Dead = RefCell<BTreeSet<(ValueId, usize)>>;

fn search<'g>(value: ValueRef<'g>, steps: usize, dead: &Dead) -> Found<Scores<'g>> {
    let is_dead = dead.borrow().contains(&(value.id(), steps));
    let found = behind_node(value, if is_dead { 0 } else { steps }, dead);
    if found.is_err() {
        dead.borrow_mut().insert((value.id(), steps));
    }
    found
}

fn behind_node<'g>(value: ValueRef<'g>, steps: usize, dead: &Dead) -> Found<Scores<'g>> {
    let wanted = || value.miss("scores: a product of queries and keys, scaled and masked");
    let node = value.producer().filter(|_| steps > 0).ok_or_else(wanted)?;
    let next = |input: usize| search(node.input(input)?, steps - 1, dead);
    match node.op() {
        op if is_product(op) => product(node),
        op if NEUTRAL.contains(&op) => next(0),
        "Mul" | "Div" => {
            let (input, factor) = scaled(node)?;
            let scores = search(input, steps - 1, dead)?;
            Ok(Scores { scale: scores.scale.zip(factor).map(|(a, b)| a * b), ..scores })
        }
        "Add" => {
            let masked = |scores: usize, mask: usize| next(scores)?.masked(node, mask, Masking::Added);
            masked(0, 1).or_else(|_| masked(1, 0))
        }
        // Older GPT-2: `scores - 1e4 * (1 - mask)`
        "Sub" => next(0)?.masked(node, 1, Masking::Subtracted),
        "Where" => {
            let masked = |scores: usize, kind| next(scores)?.masked(node, 0, kind);
            masked(1, Masking::KeptWhere).or_else(|_| masked(2, Masking::MaskedWhere))
        }
        _ => Err(wanted()),
    }
}

fn product(node: NodeRef<'_>) -> Found<Scores<'_>> {
    if node.inputs().any(ValueRef::is_fixed) {
        return Err(node.miss("a product of two activations"));
    }
    Ok(Scores { product: node, scale: Some(f64::from(node.node().float("alpha", 1.0))), masks: vec![] })
}

impl<'g> Scores<'g> {
    /// The scores behind a node that applies its input `mask` to them.
    fn masked(mut self, node: NodeRef<'g>, mask: usize, kind: Masking) -> Found<Self> {
        self.masks.push(Mask { value: node.input(mask)?.id(), kind, masked: Some(node.output(0)?.id()) });
        Ok(self)
    }
}

/// The input of a `Mul` or `Div` by one number, and the factor if it is known.
///
/// # Errors
/// If neither side is a single number: then the node is a gate or a rotation, no scale.
pub(super) fn scaled(node: NodeRef<'_>) -> Found<(ValueRef<'_>, Option<f64>)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    match (node.op(), a.is_single(), b.is_single()) {
        ("Mul", false, true) => Ok((a, b.number())),
        ("Mul", true, false) => Ok((b, a.number())),
        ("Div", false, true) => Ok((a, b.number().map(f64::recip))),
        _ => Err(node.miss("a scale: Mul or Div by a single number")),
    }
}
