//! Metrics: from predictions and references to a number, as the reference libraries define it.
//!
//! Plain functions over slices; they know no graph, no file, no tokenizer. Each names the library whose definition it follows.

mod answers;
mod classification;
mod entities;
mod ranking;
mod regression;
mod transcripts;

pub use answers::{Answer, exact_match, token_f1};
pub use classification::{Confusion, LabelSets, Scores};
pub use entities::{Entities, entities};
pub use ranking::{average_precision, discounted_gain, ranks, reciprocal_rank};
pub use regression::{mean_absolute_error, mean_squared_error, pearson, spearman};
pub use transcripts::ErrorRate;

/// A count as a number to compute with. Exact below 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts of rows and tokens are far below 2^53")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

/// The quotient of two counts; 0 where there is nothing to divide by, as scikit-learn's `zero_division=0`.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

/// The F1 score of counts: `2·tp / (2·tp + fp + fn)`, 0 where there is nothing to find and nothing was found.
fn f1(right: usize, wrong: usize, missed: usize) -> f64 {
    share(2 * right, 2 * right + wrong + missed)
}
