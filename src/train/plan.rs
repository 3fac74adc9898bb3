//! What is minimised, as a manifest keeps it: the loss by name, with everything that its graph and its data need to know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::class_terms::{ClassTerms, Weights};
use super::distillation::{Distillation, Divergence};
use super::losses::{self, Reads, Row};
use super::pooling::SentenceVector;
use crate::anatomy::Task;
use crate::num;
use crate::{Error, Result};

/// A loss and its options, all settled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossPlan {
    /// The loss: `cross-entropy`, `mnrl`, ..; `graph` for one that somebody wrote.
    pub name: String,
    /// Its options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, f64>,
    /// How a text's vector is made of its tokens' vectors, for losses of vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<SentenceVector>,
    /// Lengths at which vectors are compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matryoshka: Vec<i64>,
    /// The weight of each class, or none: all 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_weights: Vec<f64>,
    /// Whether the weights are those that make all classes of the training data count alike.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balances_classes: bool,
    /// How much of each target is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// What is learnt from a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// The teacher's file, from the bundle's folder, if its logits are not in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// What stands before the texts of a column: `query: ` before each anchor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<(String, String)>,
    /// What stands before the texts of the other columns, as the base's folder says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded_prompts: Vec<(String, String)>,
    /// Whether scores of pairs are told as the model gives them, as the base's folder says it, not as probabilities.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_logits: bool,
    /// Columns of the data that a loss graph reads as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Whether a loss graph gives a mean alone: nothing tells that it is one over rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_batch: bool,
}

/// The name of a loss that is a graph.
pub const GRAPH: &str = "graph";
/// Options that go with a cross-entropy.
const CROSS_ENTROPY: &str = "cross-entropy";

impl LossPlan {
    /// The plan of a task's default loss.
    #[must_use]
    pub fn default_of(task: Task) -> Self {
        Self { name: task.row().losses[0].to_owned(), ..Self::default() }
    }

    /// What goes with a cross-entropy of so many classes.
    #[must_use]
    pub fn class_terms(&self, classes: Option<usize>) -> ClassTerms {
        let weights = match classes.filter(|_| self.balances_classes) {
            Some(classes) => Weights::Fed(classes),
            None => Weights::of(self.class_weights.clone()),
        };
        ClassTerms { weights, smoothing: self.label_smoothing }
    }

    /// Whether it is a graph that somebody wrote.
    #[must_use]
    pub fn is_graph(&self) -> bool {
        self.name == GRAPH
    }

    /// The loss's row, for those that are formulas.
    ///
    /// # Errors
    /// A loss that the task does not have.
    pub fn row(&self, task: Task) -> Result<&'static Row> {
        Row::named(task.row().reads, &self.name)
    }

    /// Whether the cross-entropy that is fused with its gradient says it all.
    #[must_use]
    pub fn is_plain_cross_entropy(&self) -> bool {
        self.name == CROSS_ENTROPY && self.distillation.is_none() && self.class_terms(Some(0)).is_plain()
    }

    /// Whether a teacher alone is learnt from, so that rows need no labels.
    #[must_use]
    pub fn needs_no_labels(&self) -> bool {
        self.distillation.is_some_and(|distillation| distillation.weight >= 1.0)
    }

    /// Whether a row's loss depends, or may depend, on the other rows of its batch.
    #[must_use]
    pub fn needs_whole_batch(&self, task: Task) -> bool {
        self.is_of_batch || self.row(task).is_ok_and(|row| row.whole_batch)
    }

    /// Whether the loss reads the positions that fill up short rows: scores of an answer's start and end, as in transformers, and what somebody wrote.
    #[must_use]
    pub fn reads_padding(&self, task: Task) -> bool {
        self.is_graph() || task.row().reads == Reads::Spans
    }

    /// Whether a row is one answer, wanted or not.
    #[must_use]
    pub fn judges_single_answers(&self) -> bool {
        losses::has_column(&self.name, losses::DESIRABLE)
    }

    /// Whether a batch's loss is the sum of its rows', not their mean.
    #[must_use]
    pub fn adds_rows_up(&self) -> bool {
        self.options.get("mean").is_some_and(|mean| *mean == 0.0)
    }

    /// The number of the symbol that stands for nothing heard, of losses over frames.
    #[must_use]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the number of a symbol")]
    pub fn blank(&self) -> i32 {
        self.options.get("blank").map_or(0, |blank| *blank as i32)
    }

    /// Whether outputs are logits of probabilities, as they are for all losses but those that learn the numbers themselves.
    #[must_use]
    pub fn is_of_probabilities(&self) -> bool {
        !losses::is_of_numbers(&self.name)
    }

    /// Whether a score of a pair is told as a probability.
    #[must_use]
    pub fn tells_probabilities(&self) -> bool {
        self.is_of_probabilities() && !self.tells_logits
    }

    /// Whether a preference's prompt counts in the loss, which then reads the labels of all its tokens.
    #[must_use]
    pub fn learns_prompts(&self) -> bool {
        losses::has_column(&self.name, losses::LABELS)
    }

    /// Whether the base without the adapter is compared with.
    #[must_use]
    pub fn needs_reference(&self) -> bool {
        losses::has_column(&self.name, losses::REFERENCE)
    }

    /// Checks the values of the options, which go with the loss.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self, task: Task, classes: Option<usize>) -> Result<()> {
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::setting("label_smoothing", "a share from 0 to below 1", self.label_smoothing));
        }
        num::share_in_float32(self.label_smoothing, |expected, found| Error::setting("label_smoothing", expected, found))?;
        if self.balances_classes && classes.is_none() {
            let why = "the model does not tell how many classes it has";
            return Err(Error::unsupported("class_weights balanced", why).with_hint("give the weight of each class"));
        }
        if !self.class_weights.is_empty() {
            if classes.is_some_and(|classes| classes != self.class_weights.len()) {
                let what = if task.row().reads == Reads::Vocabulary { "token of the vocabulary" } else { "class" };
                let expected = format!("{}, one for each {what}", classes.unwrap_or_default());
                return Err(Error::mismatch("numbers in class_weights", expected, self.class_weights.len()));
            }
            let is_wrong = |weight: &&f64| !weight.is_finite() || **weight < 0.0 || num::is_lost_in_float32(**weight);
            if let Some(weight) = self.class_weights.iter().find(is_wrong) {
                let error = Error::setting("class_weights", "numbers of float32's range, 0 or more", weight);
                return Err(error.with_hint("weights count by their ratios: 1 for the classes that count as they are"));
            }
            if self.class_weights.iter().all(|weight| *weight == 0.0) {
                let error = Error::setting("class_weights", "one above 0 at least", "all 0");
                return Err(error.with_hint("with no weight there is nothing to learn"));
            }
        }
        if let Some(Distillation { weight, temperature }) = self.distillation {
            if !(0.0..=1.0).contains(&weight) {
                return Err(Error::setting("distill_weight", "a share from 0 to 1", weight));
            }
            num::share_in_float32(weight, |expected, found| Error::setting("distill_weight", expected, found))?;
            if !temperature.is_finite() || temperature <= 0.0 {
                return Err(Error::setting("temperature", "a number above 0", temperature));
            }
            num::in_float32(temperature, |expected, found| Error::setting("temperature", expected, found))?;
            // The divergence counts with the square of the temperature.
            let square = weight * temperature * temperature;
            num::in_float32(square, |expected, found| {
                Error::setting("temperature", expected, format!("{temperature:e}, the square of which is {found}"))
            })?;
            let of_numbers = Divergence::of(task.row().reads, &self.name) == Some(Divergence::Numbers);
            if of_numbers && temperature.to_bits() != 1.0_f64.to_bits() {
                let error = Error::setting("temperature", "a loss of classes or truths", format!("the loss {}", self.name));
                return Err(error.with_hint("leave it out: numbers are compared as they are"));
            }
        }
        Ok(())
    }
}
