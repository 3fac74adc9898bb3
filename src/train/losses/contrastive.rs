//! Losses of anchors, positives and negatives, as sentence-transformers 5 defines them.

use super::similarity::normalized;
use super::{Sum, Terms, part};
use crate::ir::{DType, Expr};

/// `MultipleNegativesRankingLoss` (Henderson et al. 2017, section 4.4): each anchor's own positive among all positives and negatives of the
/// batch; the cross-entropy of scaled cosines.
pub(super) fn mnrl<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (scores, own) = scores(terms);
    terms.over_rows(-of_own(scores, own))
}

/// `MultipleNegativesSymmetricRankingLoss`: the mean of that and of the same from each positive back to its anchor.
pub(super) fn mnrl_symmetric<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (scores, own) = scores(terms);
    let back = scores.slice_at(own.length(0) * 0.0, own.length(0), &[1]).t();
    terms.over_rows(-(of_own(scores, own) + of_own(back, own)) * 0.5)
}

/// Scaled cosines of anchors with all other texts, `[rows, texts − rows]`, and the place of each anchor's own positive.
fn scores<'g>(terms: &Terms<'g>) -> (Expr<'g>, Expr<'g>) {
    let (texts, own) = (normalized(terms.outputs[0]), terms.columns[0]);
    let rows = own.length(0);
    let others = texts.slice_at(rows, texts.length(0), &[0]);
    (part(texts, rows, 0.0).matmul(others.t()) * terms.option("scale"), own)
}

/// `ln p` of each row's own column, `[rows]`.
fn of_own<'g>(scores: Expr<'g>, own: Expr<'g>) -> Expr<'g> {
    scores.log_softmax(-1).gather_elements(own.unsqueeze(&[-1]), -1).squeeze(&[-1])
}

/// `TripletLoss` with Euclidean distances: `max(‖a − p‖ − ‖a − n‖ + margin, 0)`; distances as `torch.nn.functional.pairwise_distance`, which
/// adds 1e-6 to each difference.
pub(super) fn triplet<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let texts = Texts::of(terms);
    let distance = |other: Expr<'g>| {
        let squares = (texts.anchor - other + 1e-6).square().sum_away(&[-1]);
        squares.max(squares.same_type(1e-24)).sqrt()
    };
    let margin = distance(texts.at(1.0)) - distance(texts.at(2.0)) + terms.option("margin");
    terms.over_rows(margin.max(margin.same_type(0.0)))
}

/// `MarginMSELoss` (Hofstätter et al. 2020): the squared difference between the margins of dot products `a·p − a·n` and the teacher's, the mean over negatives.
pub(super) fn margin_mse<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (texts, margins) = (by_text(terms), terms.columns[0].cast(DType::F32));
    let products = (texts * texts.slice(&[0], &[1], &[0])).sum_away(&[-1]);
    let found = products.slice(&[1], &[2], &[0]) - products.slice(&[2], &[i64::MAX], &[0]);
    terms.over_rows(mean_away((found - margins.t()).square(), &[0]))
}

/// `MSELoss`: `(x − y)²`, where `y` is the teacher's vector for all texts of the row, or its own for each; the mean over texts and numbers.
pub(super) fn mean_squared<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let wanted = terms.columns[0].cast(DType::F32).transpose(&[1, 0, 2]);
    terms.over_rows(mean_away((by_text(terms) - wanted).square(), &[0, 2]))
}

/// The mean over axes, which go. How many numbers there are is counted where the numbers are: of a length, CUDA would fetch it from the processor as a float.
fn mean_away<'g>(values: Expr<'g>, axes: &[i64]) -> Expr<'g> {
    values.sum_away(axes) / values.filled_like(1.0).sum_away(axes)
}

/// Vectors by their place in the row, `[texts of a row, rows, hidden]`.
fn by_text<'g>(terms: &Terms<'g>) -> Expr<'g> {
    let (all, rows) = (terms.outputs[0], terms.columns[0].length(0));
    all.reshape_to(all.b().ints(&[-1]).concat(&[rows, all.length(1)], 0))
}

/// The texts of each row.
struct Texts<'g> {
    all: Expr<'g>,
    rows: Expr<'g>,
    anchor: Expr<'g>,
}

impl<'g> Texts<'g> {
    fn of(terms: &Terms<'g>) -> Self {
        let (all, rows) = (terms.outputs[0], terms.columns[0].length(0));
        Self { all, rows, anchor: part(all, rows, 0.0) }
    }

    fn at(&self, place: f64) -> Expr<'g> {
        part(self.all, self.rows, place)
    }
}
