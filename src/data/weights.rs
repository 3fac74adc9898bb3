//! What rows, and what an assistant says, weigh in the loss.

use serde_json::Value;

use super::example::{Example, Labels};
use super::fields::{Fields, describe, json};
use crate::adapter::config::Task;
use crate::error::{Error, Result};
use crate::train::losses::Row;
use crate::train::plan::LossPlan;

/// The column with a row's weight.
pub(super) const COLUMN: &str = "weight";

/// Why rows of a task cannot weigh differently; none if they can.
pub(super) fn refusal(task: Task, loss: &LossPlan) -> Option<String> {
    if loss.is_graph() {
        return Some("the loss is a graph of its own: it weighs rows itself, by an input that has the column's name".to_owned());
    }
    let row = Row::named(task.row().reads, &loss.name).ok()?;
    row.weighs_alike.map(|why| format!("the loss {} weighs all rows alike: {why}", loss.name))
}

/// A weight: a number, 0 or more.
pub(super) fn weight(value: &Value, of: &str) -> Result<f64> {
    let given = json(value);
    let number = given.as_f64().filter(|weight| weight.is_finite() && *weight >= 0.0);
    number.ok_or_else(|| {
        let error = Error::mismatch(format!("weight of {of}"), "a number, 0 or more", describe(&given));
        error.with_hint("1 is what others weigh, 0 is not learnt")
    })
}

/// A row with its weight, where it has one.
///
/// # Errors
/// A weight that is no number, or below 0.
pub(super) fn weighed(example: Example, fields: &Fields) -> Result<Example> {
    let given = fields.get(COLUMN).filter(|value| !value.is_null());
    let Some(given) = given else { return Ok(example) };
    Ok(Example { weight: Some(weight(given, "this row")?), ..example })
}

impl Example {
    /// What the row weighs.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight.unwrap_or(1.0)
    }

    /// What each of the row's labels weighs: its own, as often as the row's.
    pub(super) fn weights_of_labels(&self) -> Vec<f64> {
        let count = if let Labels::Tokens(labels) = &self.labels { labels.len() } else { self.input_ids.len() };
        let own = |at: usize| self.label_weights.get(at).copied().unwrap_or(1.0);
        (0..count).map(|at| self.weight() * own(at)).collect()
    }

    /// Whether it weighs as every other row does.
    pub(super) fn weighs_one(&self) -> bool {
        self.weight.is_none() && self.label_weights.is_empty()
    }
}
