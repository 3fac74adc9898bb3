//! The log-probability of each labelled token, as a value that formulas read, without whole logits.
//!
//! Two passes over the head, a chunk of positions at a time: the first gives the log-probabilities; the formula's gradient with respect to
//! them then weighs the positions of the second, which is the cross-entropy's own.

use super::head::Head;
use super::loss::{self, Labels, Want};
use crate::Result;
use crate::grad;
use crate::ir::{Builder, DType, Expr};

/// Log-probabilities in a graph, and how gradients go on from them.
pub(super) struct TokenLogProbs<'g, 'h> {
    b: &'g Builder,
    head: &'h Head,
    labels: Labels<'g>,
    /// One for each row of the logits, in the order of the positions that predict.
    rows: Expr<'g>,
    /// `[texts, seq]`, each at the token that it is of.
    values: Expr<'g>,
}

/// Writes log-probabilities of labels `dims` (`[texts, seq]`) that the positions before them predict; `before` positions of virtual tokens
/// stand in front of each text and have none.
///
/// # Errors
/// None for a head that was found.
pub(super) fn write<'g, 'h>(
    b: &'g Builder,
    head: &'h Head,
    labels: Labels<'g>,
    dims: Expr<'g>,
    before: i64,
) -> Result<TokenLogProbs<'g, 'h>> {
    let rows = loss::log_probs(b, head, labels)?;
    let lengths = dims + b.ints(&[0, before]);
    let predicting = rows.reshape_to(lengths);
    // The position of token t is t - 1: one step to the right, and the first token has none.
    let first = predicting.slice(&[0], &[1], &[1]).zeros_like();
    let values = first.concat(&[predicting.slice(&[0], &[-1], &[1])], 1);
    let values = if before > 0 { values.slice(&[before], &[i64::MAX], &[1]) } else { values };
    Ok(TokenLogProbs { b, head, labels, rows, values })
}

impl<'g> TokenLogProbs<'g, '_> {
    pub(super) fn values(&self) -> Expr<'g> {
        self.values
    }

    /// Where backpropagation of a loss goes on behind the log-probabilities.
    ///
    /// # Errors
    /// Operators of the formula or the head that have no gradient.
    pub(super) fn seeds(&self, loss: Expr<'g>, trainable: Expr<'g>) -> Result<Vec<(Expr<'g>, Expr<'g>)>> {
        let one = self.b.number(1.0, DType::F32);
        let of_rows = grad::vjp(self.b, &[(loss, one)], &[self.rows])?[0].unwrap_or_else(|| self.rows.zeros_like());
        // Cross-entropy is minus the log-probability.
        let want = Want::Gradient { denominator: one, trainable };
        Ok(loss::weighted_cross_entropy(self.b, self.head, self.labels, -of_rows, want)?.seeds)
    }
}
