//! The loss of a model on data it does not learn from.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::data::{Batches, Dataset, Filling, Order};
use super::metrics::EvalRecord;
use super::session::{Feed, Session};
use crate::adapter::config::Task;
use crate::error::{Error, Result};

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean over the labels that count.
    pub loss: f64,
    /// `exp(loss)`; language models only.
    pub perplexity: Option<f64>,
    /// The share of labels that the model holds for the most probable.
    pub accuracy: f64,
    /// Labels that count.
    pub labels: u64,
    /// Tokens that were read.
    pub tokens: u64,
    /// Wall time.
    pub time: Duration,
}

impl Evaluation {
    /// The evaluation as a line of metrics.
    #[must_use]
    pub fn record(&self, step: u64) -> EvalRecord {
        let Self { loss, perplexity, accuracy, .. } = *self;
        EvalRecord { step, split: "eval", loss, perplexity, accuracy, seconds: self.time.as_secs_f64() }
    }

    /// The evaluation for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "labels": self.labels,
            "tokens": self.tokens,
            "seconds": self.time.as_secs_f64(),
        })
    }

    /// The evaluation for people, in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let perplexity = self.perplexity.map(|perplexity| format!(", perplexity {perplexity:.3}")).unwrap_or_default();
        format!("loss {:.4}{perplexity}, accuracy {:.2} % of {} labels", self.loss, 100.0 * self.accuracy, self.labels)
    }
}

/// A graph that measures the loss, and the data that it is measured on.
pub struct Evaluator<'a> {
    session: Session,
    dataset: &'a Dataset,
    filling: Filling,
    batch_size: usize,
}

impl<'a> Evaluator<'a> {
    /// Measures with an open graph that has the outputs `loss_sum`, `label_count` and `correct`.
    #[must_use]
    pub fn new(session: Session, dataset: &'a Dataset, filling: Filling, batch_size: usize) -> Self {
        Self { session, dataset, filling, batch_size }
    }

    /// Measures the loss over all rows, in file order, with a trainable vector.
    ///
    /// # Errors
    /// If rows do not fit the graph or a run fails.
    pub fn measure(&mut self, trainable: Feed<'_>) -> Result<Evaluation> {
        let started = Instant::now();
        let mut batches = Batches::new(self.dataset, self.session.inputs(), self.batch_size, Order::File, self.filling.clone())?;
        let (mut loss, mut labels, mut correct, mut tokens) = (0.0_f64, 0.0_f64, 0.0_f64, 0_u64);
        for _ in 0..batches.per_epoch() {
            let batch = batches.next_batch()?;
            let mut feeds = batch.feeds();
            feeds.extend(self.session.input(trainable.name()).map(|_| trainable));
            let found = self.session.run(&feeds, &["loss_sum", "label_count", "correct"])?;
            loss += f64::from(found[0].item()?);
            labels += f64::from(found[1].item()?);
            correct += f64::from(found[2].item()?);
            tokens += u64::try_from(batch.tokens).unwrap_or_default();
        }
        if labels <= 0.0 {
            return Err(Error::invalid("no label counts in this data").in_file(&self.dataset.path));
        }
        let mean = loss / labels;
        let is_language_model = matches!(self.dataset.task, Task::CausalLm | Task::MaskedLm | Task::Seq2SeqLm);
        Ok(Evaluation {
            loss: mean,
            perplexity: is_language_model.then(|| mean.exp()),
            accuracy: correct / labels,
            labels: whole(labels),
            tokens,
            time: started.elapsed(),
        })
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that came as a float: not negative, below 2^53"
)]
fn whole(count: f64) -> u64 {
    count as u64
}
