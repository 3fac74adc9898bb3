//! The loss of answers that are spans of a text (transformers' `ForQuestionAnsweringLoss`).

use super::{Sum, Terms};
use crate::ir::Expr;

/// The mean of the cross-entropies of starts and ends. Positions beyond the text do not count in transformers; readers give none.
pub(super) fn cross_entropy<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let of = |at: usize| nothing_but(terms.outputs[at].log_softmax(-1), terms.columns[at]);
    terms.over_rows(-(of(0) + of(1)) * 0.5)
}

/// The element of each row at its position, `[rows]`.
fn nothing_but<'g>(rows: Expr<'g>, positions: Expr<'g>) -> Expr<'g> {
    rows.gather_elements(positions.unsqueeze(&[-1]), -1).squeeze(&[-1])
}
