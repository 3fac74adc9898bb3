//! Losses of pairs of texts and how alike they are, as sentence-transformers 5 defines them.

use super::{Sum, Terms, part, rows_of};
use crate::ir::{DType, Expr};

/// Vectors of length 1, as `torch.nn.functional.normalize`: a zero vector stays zero.
#[must_use]
pub fn normalized(vectors: Expr<'_>) -> Expr<'_> {
    let squares = vectors.square().sum(&[-1]);
    vectors / squares.max(squares.same_type(1e-24)).sqrt()
}

/// `CosineSimilarityLoss`: the squared difference between cosine and score.
pub(super) fn cosine<'g>(terms: &Terms<'g>) -> Sum<'g> {
    terms.over_rows((cosines(terms) - terms.columns[0]).square())
}

/// `ContrastiveLoss` with cosine distances (Hadsell et al. 2006, eq. 4): `½(y·d² + (1 − y)·max(margin − d, 0)²)`.
pub(super) fn contrastive<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (distance, alike) = (1.0 - cosines(terms), terms.columns[0]);
    let room = terms.option("margin") - distance;
    let apart = room.max(room.same_type(0.0));
    terms.over_rows((alike * distance.square() + (1.0 - alike) * apart.square()) * 0.5)
}

/// `CoSENTLoss` (Su 2022): `ln(1 + Σ e^(s_i − s_j))` over all pairs of rows of which `j` should be more alike than `i`; `s` are scaled cosines.
pub(super) fn cosent<'g>(terms: &Terms<'g>) -> Sum<'g> {
    ordered(cosines(terms), terms)
}

/// `AnglELoss` (Li & Li 2023): the same with the angle in complex space as similarity.
pub(super) fn angle<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (one, other) = pair(terms);
    // The first half of a vector is its real part, the second its imaginary one.
    let parts = |x: Expr<'g>| {
        let halves = x.reshape(&[0, 2, -1]);
        (half(halves, 0), half(halves, 1))
    };
    let ((a, b), (c, d)) = (parts(one), parts(other));
    let length = |x: Expr<'g>, y: Expr<'g>| (x.square() + y.square()).sum(&[-1]);
    let (of_one, of_other) = (length(a, b), length(c, d));
    // (a + bi) / (c + di), over the quotient of lengths: its real and imaginary parts.
    let scale = of_other * (of_one.sqrt() / of_other.sqrt());
    let real = (a * c + b * d) / scale;
    let imaginary = (b * c - a * d) / scale;
    ordered((real + imaginary).sum_away(&[-1]).abs(), terms)
}

/// One of the halves of vectors, `[rows, hidden / 2]` of `[rows, 2, hidden / 2]`.
fn half(halves: Expr<'_>, place: i64) -> Expr<'_> {
    halves.slice(&[place], &[place + 1], &[1]).squeeze(&[1])
}

fn ordered<'g>(similarity: Expr<'g>, terms: &Terms<'g>) -> Sum<'g> {
    let labels = terms.columns[0];
    let scores = similarity * terms.option("scale");
    let differences = scores.unsqueeze(&[1]) - scores.unsqueeze(&[0]);
    let counts = labels.unsqueeze(&[1]).less(labels.unsqueeze(&[0])).cast(DType::F32);
    let kept = (differences - (1.0 - counts) * 1e12).reshape(&[-1]);
    let all = kept.b().number(0.0, DType::F32).reshape(&[1]).concat(&[kept], 0);
    let most = all.reduce_max(0).without_gradient();
    let loss = (all - most).exp().sum_all().log() + most.reshape(&[]);
    let count = rows_of(labels);
    Sum { sum: loss * count, count }
}

/// The cosine of each row's two texts, `[rows]`.
fn cosines<'g>(terms: &Terms<'g>) -> Expr<'g> {
    let (one, other) = pair(terms);
    (normalized(one) * normalized(other)).sum_away(&[-1])
}

fn pair<'g>(terms: &Terms<'g>) -> (Expr<'g>, Expr<'g>) {
    let rows = terms.columns[0].length(0);
    (part(terms.outputs[0], rows, 0.0), part(terms.outputs[0], rows, 1.0))
}
