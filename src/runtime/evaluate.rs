//! The loss of a model on data it does not learn from.

mod logits;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::data::{Batch, Batches, Dataset, Filling, Order};
use super::metrics::EvalRecord;
use super::session::{Feed, Port, Session};
use crate::adapter::config::Task;
use crate::anatomy::Role;
use crate::error::{Error, Result};
use crate::train::verbalizer::HardPrompt;

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

/// Sums over the labels that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    loss: f64,
    labels: f64,
    correct: f64,
}

/// A graph that measures the loss, and the data that it is measured on.
pub struct Evaluator<'a> {
    session: Session,
    dataset: &'a Dataset,
    filling: Filling,
    batch_size: usize,
    form: Form,
    hard_prompt: Option<&'a HardPrompt>,
}

/// Where the loss comes from.
enum Form {
    /// The graph: outputs `loss_sum`, `label_count` and `correct`.
    Graph,
    /// Logits of this name; the loss is computed here.
    Logits(String),
}

impl<'a> Evaluator<'a> {
    /// Measures with an open graph that has the outputs `loss_sum`, `label_count` and `correct`.
    #[must_use]
    pub fn new(session: Session, dataset: &'a Dataset, filling: Filling, batch_size: usize) -> Self {
        Self { session, dataset, filling, batch_size, form: Form::Graph, hard_prompt: None }
    }

    /// Measures with a model that has an output of this name with logits.
    ///
    /// # Errors
    /// If the model has no such output.
    pub fn of_logits(session: Session, logits: &str, dataset: &'a Dataset, filling: Filling, batch_size: usize) -> Result<Self> {
        if session.output(logits).is_none() {
            return Err(Error::not_found("output", logits).in_file(session.path()));
        }
        Ok(Self { session, dataset, filling, batch_size, form: Form::Logits(logits.to_owned()), hard_prompt: None })
    }

    /// Labels are numbers of the words that a language model is asked for. (A graph with a loss has narrowed its logits to them itself.)
    #[must_use]
    pub fn narrowed_to(self, hard_prompt: Option<&'a HardPrompt>) -> Self {
        Self { hard_prompt, ..self }
    }

    /// Measures the loss over all rows, in file order, with a trainable vector, if the graph takes one.
    ///
    /// # Errors
    /// If rows do not fit the graph or a run fails.
    pub fn measure(&mut self, trainable: Option<Feed<'_>>) -> Result<Evaluation> {
        let started = Instant::now();
        let inputs = self.inputs();
        let mut filling = self.filling.clone();
        filling.feeding.inputs.insert(logits::LABELS.to_owned(), Role::Labels);
        let mut batches = Batches::new(self.dataset, &inputs, self.batch_size, Order::File, filling)?;
        let (mut sums, mut tokens) = (Sums::default(), 0_u64);
        for _ in 0..batches.per_epoch() {
            for batch in batches.next_parts()? {
                let Sums { loss, labels, correct } = self.run(&batch, trainable)?;
                sums = Sums { loss: sums.loss + loss, labels: sums.labels + labels, correct: sums.correct + correct };
                tokens += u64::try_from(batch.tokens).unwrap_or_default();
            }
        }
        let Sums { loss, labels, correct } = sums;
        if labels <= 0.0 {
            return Err(Error::invalid("no label counts in this data").in_file(&self.dataset.path));
        }
        let mean = loss / labels;
        let is_language_model = matches!(self.dataset.task, Task::CausalLm | Task::MaskedLm | Task::Seq2SeqLm);
        Ok(Evaluation {
            loss: mean,
            perplexity: (is_language_model && self.hard_prompt.is_none()).then(|| mean.exp()),
            accuracy: correct / labels,
            labels: whole(labels),
            tokens,
            time: started.elapsed(),
        })
    }

    /// The inputs that batches are made for: the graph's, and the labels.
    fn inputs(&self) -> Vec<Port> {
        let own = self.session.inputs().iter().cloned();
        match self.form {
            Form::Graph => own.collect(),
            Form::Logits(_) => own.chain([logits::labels_port(self.dataset.task)]).collect(),
        }
    }

    fn run(&mut self, batch: &Batch, trainable: Option<Feed<'_>>) -> Result<Sums> {
        let mut feeds = batch.feeds();
        match &self.form {
            Form::Graph => {
                feeds.extend(trainable.filter(|feed| self.session.input(feed.name()).is_some()));
                let found = self.session.run(&feeds, &["loss_sum", "label_count", "correct"])?;
                let number = |at: usize| Ok::<_, Error>(f64::from(found[at].item()?));
                Ok(Sums { loss: number(0)?, labels: number(1)?, correct: number(2)? })
            }
            Form::Logits(name) => {
                let (labels, feeds) = logits::without_labels(batch, feeds)?;
                let found = self.session.run(&feeds, &[name])?;
                logits::sums(&found[0], labels, self.dataset.task, self.hard_prompt)
            }
        }
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
