//! Losses as formulas: one row each, written with the builder and differentiated by the engine.
//!
//! Each row says which outputs of the model the loss reads, which inputs carry its labels, and its options with their defaults. Language
//! models' cross-entropy is not here: it is fused with its gradient and runs a chunk of positions at a time ([`loss`](super::loss)).

mod classes;
mod contrastive;
mod ctc;
mod numbers;
mod preference;
mod similarity;
mod spans;

use std::collections::BTreeMap;

pub use crate::anatomy::Reads;
use crate::ir::{DType, Expr};
use crate::{Error, Result, num};

pub use classes::class_cross_entropy;
pub use preference::log_ratios;
pub use similarity::normalized;

/// How long an axis of a label input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// One for each row of the batch.
    Rows,
    /// One for each row of two texts, whatever the loss reads.
    Pairs,
    /// One for each text: rows times texts of a row.
    Texts,
    /// One for each position.
    Positions,
    /// One for each class.
    Classes,
    /// One for each symbol of a row's text, as many as the longest has.
    Symbols,
    /// One for each of what a row has several of: negatives, vectors of a teacher.
    Several,
}

/// An input that carries labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The input's name.
    pub name: &'static str,
    /// The type of its elements.
    pub dtype: DType,
    /// Its axes.
    pub axes: &'static [Axis],
}

/// The input that carries labels, whatever they are.
pub const LABELS: &str = "labels";
/// Where the answer starts, a position, int64 `[batch]`.
pub const START_POSITIONS: &str = "start_positions";
/// The answer's last position, int64 `[batch]`.
pub const END_POSITIONS: &str = "end_positions";
/// The sum of the reference model's log-probabilities of each text's completion, float32 `[texts]`.
pub const REFERENCE: &str = "reference_logps";
/// 1 for an answer that is wanted, 0 for one that is not, float32 `[texts]`.
pub const DESIRABLE: &str = "desirable";
/// 1 where a labelled token belongs to the completion, 0 where it belongs to the prompt, float32 `[texts, seq]`.
pub const COMPLETION: &str = "completion_mask";

/// A loss.
#[derive(Debug)]
pub struct Row {
    /// What it reads.
    pub reads: Reads,
    /// Its name on the command line. Losses of different `reads` may share one.
    pub name: &'static str,
    /// The inputs with its labels; the first axis of the first tells the rows of a batch.
    pub columns: &'static [Column],
    /// Its options and their defaults.
    pub options: &'static [(&'static str, f64)],
    /// Whether a row's loss depends on the other rows of its batch, so that a batch cannot be parted.
    pub whole_batch: bool,
    /// Why rows cannot weigh differently; none where the loss is a mean over rows or labels.
    pub weighs_alike: Option<&'static str>,
    /// The formula.
    write: for<'g> fn(&Terms<'g>) -> Sum<'g>,
    /// A second term that is added to it and divided by a number of its own.
    beside: Option<for<'g> fn(&Terms<'g>) -> Sum<'g>>,
}

/// What a formula is written of.
pub struct Terms<'g> {
    /// What the model gives, float32, as [`Reads`] says.
    pub outputs: Vec<Expr<'g>>,
    /// The label inputs, in the order of the row's columns.
    pub columns: Vec<Expr<'g>>,
    /// What rows weigh: one number for each, or one for all.
    pub weights: Option<Expr<'g>>,
    options: BTreeMap<String, f64>,
}

impl<'g> Terms<'g> {
    /// The mean over rows, each with its weight, of a value for each row, `[rows]`, or of several, `[rows, ..]`: `Σ w·v / Σ w`.
    fn over_rows(&self, values: Expr<'g>) -> Sum<'g> {
        let weights = self.weights_like(values);
        let count = weights.sum_all();
        // Rows that all weigh nothing teach nothing.
        let count = if self.weights.is_some() { count.max(count.same_type(1e-12)) } else { count };
        Sum { sum: (values * weights).sum_all(), count }
    }

    /// What each value weighs, of values of rows.
    fn weights_like(&self, values: Expr<'g>) -> Expr<'g> {
        let Some(weights) = self.weights else { return values.filled_like(1.0) };
        let inner: Vec<i64> = (1..values.rank()).map(num::int).collect();
        if inner.is_empty() { weights.expand_like(values) } else { weights.unsqueeze(&inner).expand_like(values) }
    }

    /// An option's value.
    fn option(&self, name: &str) -> f64 {
        self.options.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// A loss as what is added up and what it is divided by; both float32, rank 0.
#[derive(Clone, Copy)]
pub struct Sum<'g> {
    /// The sum over what counts.
    pub sum: Expr<'g>,
    /// How many (or how much weight) count, at least 1 where it could be 0.
    pub count: Expr<'g>,
}

/// `[batch, classes]` int64: a class for each row.
const CLASS: Column = Column { name: LABELS, dtype: DType::I64, axes: &[Axis::Rows] };
/// A number for each class of each row.
const NUMBERS: Column = Column { name: LABELS, dtype: DType::F32, axes: &[Axis::Rows, Axis::Classes] };
/// A number for each row.
const SCORE: Column = Column { name: LABELS, dtype: DType::F32, axes: &[Axis::Rows] };
/// How much higher a teacher scores each row's positive than each of its negatives.
const MARGINS: Column = Column { name: LABELS, dtype: DType::F32, axes: &[Axis::Rows, Axis::Several] };
/// A teacher's vector for all texts of each row, or one for each of them.
const VECTORS: Column = Column { name: LABELS, dtype: DType::F32, axes: &[Axis::Rows, Axis::Several, Axis::Classes] };
/// The place of each row's own positive among the batch's texts behind the anchors.
const OWN_POSITIVE: Column = CLASS;
/// A class for each position.
const CLASSES: Column = Column { name: LABELS, dtype: DType::I64, axes: &[Axis::Rows, Axis::Positions] };
/// The symbols of a text.
const SYMBOLS: Column = Column { name: LABELS, dtype: DType::I64, axes: &[Axis::Rows, Axis::Symbols] };
/// The row's place in its batch: it tells how many rows there are, each of two texts.
const PAIR: Column = Column { name: LABELS, dtype: DType::I64, axes: &[Axis::Pairs] };
const STARTS: Column = Column { name: START_POSITIONS, dtype: DType::I64, axes: &[Axis::Rows] };
const ENDS: Column = Column { name: END_POSITIONS, dtype: DType::I64, axes: &[Axis::Rows] };
pub(super) const REFERENCES: Column = Column { name: REFERENCE, dtype: DType::F32, axes: &[Axis::Texts] };
const WANTED: Column = Column { name: DESIRABLE, dtype: DType::F32, axes: &[Axis::Rows] };
/// The tokens of each text, those that do not count ignored.
const TOKEN_LABELS: Column = Column { name: LABELS, dtype: DType::I64, axes: &[Axis::Texts, Axis::Positions] };
pub(super) const COMPLETIONS: Column = Column { name: COMPLETION, dtype: DType::F32, axes: &[Axis::Texts, Axis::Positions] };

/// Why some losses weigh all rows alike.
const PAIRS: &str = "it compares each row with every other one, and is no mean over rows";
const TOKENS: &str = "it is a mean over tokens and one over rows together";

/// All losses, by what they read; the first of each is the default there.
#[rustfmt::skip]
pub static LOSSES: &[Row] = &[
    Row { reads: Reads::Logits,        name: "cross-entropy",  columns: &[CLASS],        options: &[],                                  whole_batch: false, weighs_alike: None, write: classes::cross_entropy, beside: None },
    Row { reads: Reads::Logits,        name: "focal",          columns: &[CLASS],        options: &[("gamma", 2.0)],                    whole_batch: false, weighs_alike: None, write: classes::focal, beside: None },
    Row { reads: Reads::Logits,        name: "bce",            columns: &[NUMBERS],      options: &[],                                  whole_batch: false, weighs_alike: None, write: classes::binary_cross_entropy, beside: None },
    Row { reads: Reads::Logits,        name: "mse",            columns: &[NUMBERS],      options: &[],                                  whole_batch: false, weighs_alike: None, write: numbers::mean_squared, beside: None },
    Row { reads: Reads::Logits,        name: "mae",            columns: &[NUMBERS],      options: &[],                                  whole_batch: false, weighs_alike: None, write: numbers::mean_absolute, beside: None },
    Row { reads: Reads::Logits,        name: "huber",          columns: &[NUMBERS],      options: &[("delta", 1.0)],                    whole_batch: false, weighs_alike: None, write: numbers::huber, beside: None },
    Row { reads: Reads::Logits,        name: "bradley-terry",  columns: &[PAIR],        options: &[],                                  whole_batch: false, weighs_alike: None, write: preference::bradley_terry, beside: None },
    Row { reads: Reads::TokenLogits,   name: "cross-entropy",  columns: &[CLASSES],      options: &[],                                  whole_batch: false, weighs_alike: None, write: classes::cross_entropy, beside: None },
    Row { reads: Reads::Frames,        name: "ctc",            columns: &[SYMBOLS],      options: &[("blank", 0.0), ("mean", 1.0), ("zero_infinity", 0.0)], whole_batch: false, weighs_alike: None, write: ctc::ctc, beside: None },
    Row { reads: Reads::Spans,         name: "cross-entropy",  columns: &[STARTS, ENDS], options: &[],                                  whole_batch: false, weighs_alike: None, write: spans::cross_entropy, beside: None },
    Row { reads: Reads::Embeddings,    name: "mnrl",           columns: &[OWN_POSITIVE], options: &[("scale", 20.0)],                   whole_batch: true,  weighs_alike: None, write: contrastive::mnrl, beside: None },
    Row { reads: Reads::Embeddings,    name: "mnrl-symmetric", columns: &[OWN_POSITIVE], options: &[("scale", 20.0)],                   whole_batch: true,  weighs_alike: None, write: contrastive::mnrl_symmetric, beside: None },
    Row { reads: Reads::Embeddings,    name: "triplet",        columns: &[OWN_POSITIVE], options: &[("margin", 5.0)],                   whole_batch: false, weighs_alike: None, write: contrastive::triplet, beside: None },
    Row { reads: Reads::Embeddings,    name: "margin-mse",     columns: &[MARGINS],      options: &[],                                  whole_batch: false, weighs_alike: None, write: contrastive::margin_mse, beside: None },
    Row { reads: Reads::Embeddings,    name: "mse",            columns: &[VECTORS],      options: &[],                                  whole_batch: false, weighs_alike: None, write: contrastive::mean_squared, beside: None },
    Row { reads: Reads::Embeddings,    name: "cosent",         columns: &[SCORE],        options: &[("scale", 20.0)],                   whole_batch: true,  weighs_alike: Some(PAIRS), write: similarity::cosent, beside: None },
    Row { reads: Reads::Embeddings,    name: "angle",          columns: &[SCORE],        options: &[("scale", 20.0)],                   whole_batch: true,  weighs_alike: Some(PAIRS), write: similarity::angle, beside: None },
    Row { reads: Reads::Embeddings,    name: "cosine",         columns: &[SCORE],        options: &[],                                  whole_batch: false, weighs_alike: None, write: similarity::cosine, beside: None },
    Row { reads: Reads::Embeddings,    name: "contrastive",    columns: &[SCORE],        options: &[("margin", 0.5)],                   whole_batch: false, weighs_alike: None, write: similarity::contrastive, beside: None },
    Row { reads: Reads::TokenLogProbs, name: "dpo",            columns: &[COMPLETIONS, REFERENCES], options: &[("beta", 0.1)],          whole_batch: false, weighs_alike: None, write: preference::dpo, beside: None },
    Row { reads: Reads::TokenLogProbs, name: "ipo",            columns: &[COMPLETIONS, REFERENCES], options: &[("beta", 0.1)],          whole_batch: false, weighs_alike: None, write: preference::ipo, beside: None },
    Row { reads: Reads::TokenLogProbs, name: "simpo",          columns: &[COMPLETIONS],  options: &[("beta", 0.1), ("gamma", 0.5)],     whole_batch: false, weighs_alike: None, write: preference::simpo, beside: None },
    Row { reads: Reads::TokenLogProbs, name: "orpo",           columns: &[COMPLETIONS, TOKEN_LABELS], options: &[("beta", 0.1)],                     whole_batch: false, weighs_alike: Some(TOKENS), write: preference::orpo, beside: Some(preference::likelihood) },
    Row { reads: Reads::TokenLogProbs, name: "kto",            columns: &[COMPLETIONS, REFERENCES, WANTED], options: &[("beta", 0.1), ("desirable_weight", 1.0), ("undesirable_weight", 1.0)], whole_batch: true,  weighs_alike: None, write: preference::kto, beside: None },
];

/// Losses that compare numbers with what the model gives, which therefore is no logit.
const OF_NUMBERS: &[&str] = &["mse", "mae", "huber"];

/// Whether a loss compares numbers with what the model gives, as it is.
#[must_use]
pub fn is_of_numbers(name: &str) -> bool {
    OF_NUMBERS.contains(&name)
}

/// Whether a loss of this name reads a column.
#[must_use]
pub fn has_column(name: &str, column: &str) -> bool {
    LOSSES.iter().any(|row| row.name == name && row.columns.iter().any(|own| own.name == column))
}

impl Row {
    /// The loss of a name among those that read the same.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) with those that there are.
    pub fn named(reads: Reads, name: &str) -> Result<&'static Self> {
        let fitting = || LOSSES.iter().filter(|row| row.reads == reads);
        fitting().find(|row| row.name == name).ok_or_else(|| {
            let names: Vec<&str> = fitting().map(|row| row.name).collect();
            Error::not_found("loss", name).with_hint(format!("losses of this task are {}", names.join(", ")))
        })
    }

    /// The options as given, with the defaults of the others.
    ///
    /// # Errors
    /// An option that this loss does not have; a value that is not finite.
    pub fn options(&self, given: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
        let mut options: BTreeMap<String, f64> = self.options.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        for (name, value) in given {
            let Some(option) = options.get_mut(name) else {
                let names: Vec<&str> = self.options.iter().map(|(name, _)| *name).collect();
                let known = if names.is_empty() { "has none".to_owned() } else { format!("has {}", names.join(", ")) };
                return Err(Error::not_found("option of the loss", name).with_hint(format!("{} {known}", self.name)));
            };
            if !value.is_finite() {
                return Err(Error::mismatch(format!("option {name} of the loss"), "a finite number", value));
            }
            num::in_float32(*value, |expected, found| Error::mismatch(format!("option {name} of the loss"), expected, found))?;
            *option = *value;
        }
        Ok(options)
    }

    /// Writes the loss; `options` as [`options`](Self::options) gives them.
    #[must_use]
    pub fn write<'g>(
        &self,
        outputs: Vec<Expr<'g>>,
        columns: Vec<Expr<'g>>,
        weights: Option<Expr<'g>>,
        options: BTreeMap<String, f64>,
    ) -> Sum<'g> {
        let outputs = outputs.into_iter().map(|output| output.cast(DType::F32)).collect();
        (self.write)(&Terms { outputs, columns, weights, options })
    }

    /// Writes its second term, if it has one.
    #[must_use]
    pub fn write_beside<'g>(
        &self,
        outputs: Vec<Expr<'g>>,
        columns: Vec<Expr<'g>>,
        weights: Option<Expr<'g>>,
        options: BTreeMap<String, f64>,
    ) -> Option<Sum<'g>> {
        let outputs = outputs.into_iter().map(|output| output.cast(DType::F32)).collect();
        self.beside.map(|beside| beside(&Terms { outputs, columns, weights, options }))
    }
}

/// `ln(1 / (1 + e⁻ˣ))`, stable for every `x`.
fn log_sigmoid(x: Expr<'_>) -> Expr<'_> {
    -(-x).softplus()
}

/// How many rows a column `[rows]` has, float32, rank 0. They are added up: a number made of a length would be computed in the host's memory, and what follows from it too.
fn rows_of(column: Expr<'_>) -> Expr<'_> {
    column.filled_like(1.0).cast(DType::F32).sum_all()
}

/// Part `at` of texts stacked on the first axis, `[rows, ..]`; the label column tells how many rows a part has.
fn part<'g>(texts: Expr<'g>, rows: Expr<'g>, at: f64) -> Expr<'g> {
    texts.slice_at(rows * at, rows * (at + 1.0), &[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_stands_in_the_table_once_and_names_its_columns() {
        let mut names: Vec<_> = LOSSES.iter().map(|row| (row.reads, row.name)).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(LOSSES.iter().all(|row| !row.columns.is_empty()));
    }

    #[test]
    fn options_are_those_of_the_loss() {
        let row = Row::named(Reads::Embeddings, "mnrl").expect("a loss of the table");
        let options = |given: &[(&str, f64)]| row.options(&given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect());
        assert_eq!(options(&[]).expect("defaults")["scale"].to_bits(), 20.0_f64.to_bits());
        assert_eq!(options(&[("scale", 50.0)]).expect("given")["scale"].to_bits(), 50.0_f64.to_bits());
        assert!(options(&[("margin", 1.0)]).is_err_and(|error| error.hint().is_some_and(|hint| hint.contains("scale"))));
        assert!([f64::NAN, 1e300, 1e-300, 1e-46].into_iter().all(|scale| options(&[("scale", scale)]).is_err()));
        assert!(Row::named(Reads::Spans, "mnrl").is_err());
    }
}
