//! Losses of numbers, the mean over all elements, as `torch.nn.MSELoss`, `L1Loss` and `HuberLoss`.

use super::{Sum, Terms};
use crate::ir::Expr;

/// `(x − y)²`
pub(super) fn mean_squared<'g>(terms: &Terms<'g>) -> Sum<'g> {
    terms.over_rows(difference(terms).square())
}

/// `|x − y|`
pub(super) fn mean_absolute<'g>(terms: &Terms<'g>) -> Sum<'g> {
    terms.over_rows(difference(terms).abs())
}

/// `½d²` where `|d| ≤ δ`, else `δ·(|d| − ½δ)`; written as `½q² + δ·(|d| − q)` with `q = min(|d|, δ)`.
pub(super) fn huber<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (size, delta) = (difference(terms).abs(), terms.option("delta"));
    let inner = size.min(size.same_type(delta));
    terms.over_rows(inner.square() * 0.5 + (size - inner) * delta)
}

fn difference<'g>(terms: &Terms<'g>) -> Expr<'g> {
    terms.outputs[0] - terms.columns[0]
}
