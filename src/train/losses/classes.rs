//! Losses of classes: one right class a row, or a truth for each class.

use super::{Sum, Terms};
use crate::contract::IGNORED;
use crate::ir::{DType, Expr};
use crate::train::class_terms::ClassTerms;

pub(super) fn cross_entropy<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let logits = terms.outputs[0];
    let rows = if logits.rank() == 2 { logits } else { logits.rows() };
    let weights = terms.weights_like(terms.columns[0]).cast(DType::F32).reshape(&[-1]);
    class_cross_entropy(rows, terms.columns[0].reshape(&[-1]), Some(weights), &ClassTerms::default())
}

/// Cross-entropy of `[rows, classes]` logits with int64 `[rows]` classes, [`IGNORED`] ones left out, as
/// `torch.nn.CrossEntropyLoss(weight, label_smoothing)`:
///
/// `Σ ((1 − ε)·w_y·(−ln p_y) + ε/C·Σ_c w_c·(−ln p_c)) / Σ w_y`; rows may have weights of their own, `[rows]`, by which both sums are multiplied.
#[must_use]
pub fn class_cross_entropy<'g>(logits: Expr<'g>, labels: Expr<'g>, of_rows: Option<Expr<'g>>, terms: &ClassTerms) -> Sum<'g> {
    let b = logits.b();
    let mut target = Target::of(logits, labels);
    if let Some(of_rows) = of_rows {
        target.counts = target.counts * of_rows;
    }
    let weights = terms.weights.write(b);
    let of_row = match weights {
        Some(weights) => weights.gather(target.classes, 0) * target.counts,
        None => target.counts,
    };
    let mut sum = -(target.log_p_of_class() * of_row);
    if terms.smoothing > 0.0 {
        let weighted = weights.map_or(target.log_p, |weights| target.log_p * weights);
        let spread = -(weighted.mean(&[-1]).squeeze(&[-1]) * target.counts);
        sum = sum * (1.0 - terms.smoothing) + spread * terms.smoothing;
    }
    Sum { sum: sum.sum_all(), count: at_least(of_row.sum_all(), 1e-12) }
}

/// Focal loss (Lin et al. 2017, eq. 4, without α): `(1 − p_y)^γ · (−ln p_y)`, the mean over rows.
pub(super) fn focal<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let mut target = Target::of(terms.outputs[0], terms.columns[0]);
    target.counts = target.counts * terms.weights_like(target.counts);
    let log_p = target.log_p_of_class();
    // (1 − p)^γ as e^(γ·ln(1 − p)): its slope stays finite where p reaches 1.
    let others = at_least(1.0 - log_p.exp(), 1e-12);
    let weight = (others.log() * terms.option("gamma")).exp();
    let count = target.counts.sum_all();
    Sum { sum: -(weight * log_p * target.counts).sum_all(), count: at_least(count, 1e-12) }
}

/// Binary cross-entropy of logits with truths in `[0, 1]`, both `[rows, classes]`: the mean over all of them
/// (`torch.nn.BCEWithLogitsLoss`), as `max(x, 0) − x·t + ln(1 + e^(−|x|))`.
pub(super) fn binary_cross_entropy<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (x, truths) = (terms.outputs[0], terms.columns[0]);
    let each = x.softplus() - x * truths;
    terms.over_rows(each)
}

/// What a row's label asks for.
struct Target<'g> {
    log_p: Expr<'g>,
    classes: Expr<'g>,
    counts: Expr<'g>,
}

impl<'g> Target<'g> {
    fn of(logits: Expr<'g>, labels: Expr<'g>) -> Self {
        let b = logits.b();
        let ignored = b.int(IGNORED.into());
        let counts = labels.equal(ignored).logical_not().cast(DType::F32);
        Self { log_p: logits.log_softmax(-1), classes: labels.max(b.int(0)), counts }
    }

    /// `ln p` of each row's class, `[rows]`.
    fn log_p_of_class(&self) -> Expr<'g> {
        self.log_p.gather_elements(self.classes.unsqueeze(&[-1]), -1).squeeze(&[-1])
    }
}

fn at_least(x: Expr<'_>, least: f64) -> Expr<'_> {
    x.max(x.same_type(least))
}
