//! The loss of a model on data it does not learn from.

mod found;
mod frames;
pub mod gathered;
mod logits;
mod meter;
pub mod reference;
pub mod rounding;
pub mod teacher;
pub mod text_prefix;
pub mod verify;

pub use meter::{Meter, Metrics, Scoring};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::adapter::config::Task;
use crate::anatomy::Role;
use crate::contract::Output;
use crate::data::{Batch, Batches, Collation, Dataset, Example, Order, Tokenizer};
use crate::error::{Context, Error, Result};
use crate::measure::Confusion;
use crate::num;
use crate::ort::{Feed, HostTensor, Port, Session};
use crate::parallel::{Alone, Ranks};
use crate::train::cached::VECTORS;
use crate::train::distillation::DIVERGENCE;
use crate::train::losses::Reads;
use crate::train::plan::LossPlan;
use crate::train::verbalizer::HardPrompt;
use found::{BatchResult, Sums};
use gathered::Encoded;
use reference::Reference;
use teacher::Teacher;

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean over the labels that count.
    pub loss: f64,
    /// `exp(loss)`; language models only.
    pub perplexity: Option<f64>,
    /// The share of labels that the model holds for the most probable; none where predictions are no classes.
    pub accuracy: Option<f64>,
    /// What the task is measured with beside, by name.
    pub metrics: Metrics,
    /// Which classes were taken for which; only where a row has one class.
    pub confusion: Option<Confusion>,
    /// Labels that count.
    pub labels: u64,
    /// Tokens that were read.
    pub tokens: u64,
    /// Wall time.
    pub time: Duration,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalRecord {
    /// The number of the last step before it; 0 before the first.
    pub step: u64,
    /// Which data: `eval`.
    pub split: &'static str,
    /// Mean over the labels that count.
    pub loss: f64,
    /// `exp(loss)`, for language models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// The share of labels that are the most probable ones; none where predictions are no classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// What the task is measured with beside, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// Wall time of the evaluation.
    pub seconds: f64,
}

impl Evaluation {
    /// The evaluation as a line of metrics.
    #[must_use]
    pub fn record(&self, step: u64) -> EvalRecord {
        let Self { loss, perplexity, accuracy, .. } = *self;
        let metrics = self.metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        EvalRecord { step, split: "eval", loss, perplexity, accuracy, metrics, seconds: self.time.as_secs_f64() }
    }

    /// The evaluation for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let all = self.all().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
        json!({
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "metrics": all.collect::<Map<String, Value>>(),
            "labels": self.labels,
            "tokens": self.tokens,
            "seconds": self.time.as_secs_f64(),
        })
    }

    /// The evaluation for people, in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let perplexity = self.perplexity.map(|perplexity| format!(", perplexity {perplexity:.3}")).unwrap_or_default();
        let accuracy =
            self.accuracy.map(|accuracy| format!(", accuracy {:.2} % of {} labels", 100.0 * accuracy, self.labels)).unwrap_or_default();
        let others = self.metrics.iter().filter(|(name, _)| *name != "accuracy").map(|(name, value)| format!(", {name} {value:.4}"));
        format!("loss {:.4}{perplexity}{accuracy}{}", self.loss, others.collect::<String>())
    }

    /// All that was measured, by name.
    #[must_use]
    pub fn all(&self) -> Metrics {
        let first = [("loss", Some(self.loss)), ("perplexity", self.perplexity), ("accuracy", self.accuracy)];
        let first = first.into_iter().filter_map(|(name, value)| Some((name, value?)));
        first.chain(self.metrics.iter().copied().filter(|(name, _)| *name != "accuracy")).collect()
    }
}

/// A graph that measures the loss, and the data that it is measured on.
pub struct Evaluator<'a> {
    session: Session,
    dataset: &'a Dataset,
    collation: Collation,
    batch_size: usize,
    form: LossSource,
    hard_prompt: Option<&'a HardPrompt>,
    meter: Meter,
    reference: Option<Reference>,
    teacher: Option<Teacher>,
    /// The loss of vectors that are compared with all others of their batch, where a batch is computed in parts.
    of_all: Option<Session>,
    /// What tells how far the model is from its teacher, if it has one.
    divergence: Option<&'static str>,
}

/// Where the loss comes from.
enum LossSource {
    /// The graph: outputs `loss_sum`, `label_count` and `correct`.
    Graph,
    /// Logits of this name; the loss is computed here.
    Logits(String),
}

impl<'a> Evaluator<'a> {
    /// Measures with an open graph that has the outputs `loss_sum`, `label_count` and `correct`.
    #[must_use]
    pub fn new(session: Session, dataset: &'a Dataset, collation: Collation, batch_size: usize) -> Self {
        let divergence = session.output(DIVERGENCE).map(|_| "kl");
        let meter = Meter::new(dataset.task, 0, &[], Scoring::default());
        let (form, hard_prompt, reference, teacher, of_all) = (LossSource::Graph, None, None, None, None);
        Self { session, dataset, collation, batch_size, form, hard_prompt, meter, reference, teacher, of_all, divergence }
    }

    /// Measures what the task is measured with, of so many classes.
    #[must_use]
    pub fn measuring(mut self, classes: usize, names: &[String], loss: &LossPlan) -> Self {
        // Answers are compared with all of their batch; what is kept of them to compare later is vectors alone.
        if loss.needs_whole_batch(self.dataset.task) && self.dataset.task.row().reads != Reads::Embeddings {
            self.collation.micro_batch = None;
        }
        // Numbers are no distributions.
        let divergence = self.divergence.map(|name| if loss.is_of_probabilities() { name } else { "teacher_mse" });
        Self { divergence, meter: Meter::new(self.dataset.task, classes, names, Scoring::of(loss)), ..self }
    }

    /// Spells what is heard.
    #[must_use]
    pub fn spelled_by(self, tokenizer: Option<Arc<Tokenizer>>, loss: &LossPlan) -> Self {
        Self { meter: self.meter.spelled_by(tokenizer, loss), ..self }
    }

    /// Compares with the base without the adapter.
    #[must_use]
    pub fn compared_with(self, reference: Option<Reference>) -> Self {
        Self { reference, ..self }
    }

    /// Asks a teacher with each batch.
    #[must_use]
    pub fn taught_by(self, teacher: Option<Teacher>) -> Self {
        Self { teacher, ..self }
    }

    /// Measures a loss that compares all texts of a batch on batches in parts: `loss` is opened where there are such, and gives the loss of all vectors.
    ///
    /// # Errors
    /// As opening it.
    pub fn comparing_all(self, loss: impl FnOnce() -> Result<Option<Session>>) -> Result<Self> {
        let of_all = if self.collation.parts_batches(self.dataset, self.batch_size) { loss()? } else { None };
        Ok(Self { of_all, ..self })
    }

    /// Measures with a model that has an output of this name with logits.
    ///
    /// # Errors
    /// If the model has no such output.
    pub fn of_logits(session: Session, logits: &str, dataset: &'a Dataset, collation: Collation, batch_size: usize) -> Result<Self> {
        if session.output(logits).is_none() {
            return Err(Error::not_found("output", logits).in_file(session.path()));
        }
        let meter = Meter::new(dataset.task, 0, &[], Scoring::default());
        let form = LossSource::Logits(logits.to_owned());
        let (hard_prompt, reference, teacher, of_all, divergence) = (None, None, None, None, None);
        Ok(Self { session, dataset, collation, batch_size, form, hard_prompt, meter, reference, teacher, of_all, divergence })
    }

    /// Labels are numbers of the words that a language model is asked for. (A graph with a loss has narrowed its logits to them itself.)
    #[must_use]
    pub fn narrowed_to(self, hard_prompt: Option<&'a HardPrompt>) -> Self {
        Self { hard_prompt, ..self }
    }

    /// The names of all that may be measured.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let has = |name: &str| self.session.output(name).is_some();
        let first = [("loss", true), ("perplexity", self.is_of_tokens()), ("accuracy", has("correct"))];
        let first = first.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name);
        let own: &[&str] = if self.hard_prompt.is_some() { &[] } else { self.meter.names() };
        let own = own.iter().copied().filter(|name| *name != "accuracy" || !has("correct"));
        first.chain(own).chain(self.divergence).collect()
    }

    /// Whether a language model is measured by its tokens.
    fn is_of_tokens(&self) -> bool {
        self.dataset.task.row().reads == Reads::Vocabulary && self.hard_prompt.is_none()
    }

    /// Measures the loss over all rows, in file order, with a trainable vector, if the graph takes one.
    ///
    /// # Errors
    /// If rows do not fit the graph or a run fails.
    pub fn measure(&mut self, trainable: Option<Feed<'_>>) -> Result<Evaluation> {
        self.measure_among(&Ranks::of(&Alone, &AtomicBool::new(false)), trainable)
    }

    /// The same; of several processes each runs its share of the batches, and all of them know what was found.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn measure_among(&mut self, ranks: &Ranks<'_>, trainable: Option<Feed<'_>>) -> Result<Evaluation> {
        let started = Instant::now();
        let inputs = self.inputs();
        let mut collation = self.collation.clone();
        collation.feeding.inputs.insert(logits::LABELS.to_owned(), Role::Labels);
        let mut batches = Batches::new(self.dataset, &inputs, self.batch_size, Order::File, collation)?;
        let (mut sums, mut tokens, mut without) = (Sums::default(), 0_usize, vec![]);
        self.meter.clear();
        let share = ranks.share();
        let count = batches.per_epoch();
        for first in (0..count).step_by(share.size) {
            let mut rows = vec![];
            let mut own = Ok(vec![]);
            for number in first..count.min(first + share.size) {
                if share.has(number) {
                    own = batches.next_parts().and_then(|parts| {
                        let (found, own) = self.found_in(parts, trainable)?;
                        rows.extend(own);
                        Ok(found)
                    });
                } else {
                    rows.extend(batches.skip_parts());
                }
            }
            for (found, rows) in found::exchanged(ranks, own)?.into_iter().zip(rows) {
                (sums, tokens) = (sums.with(&found.sums), tokens + found.tokens);
                let rows = found.completed(rows);
                if self.dataset.task == Task::Ctc && !found.sums.loss.is_finite() {
                    frames::check_texts(&rows, &found.predictions).in_file(&self.dataset.path)?;
                }
                without.extend(found.rows_without_numbers(&rows));
                self.meter.add(&rows, &found.predictions)?;
            }
        }
        if let Some(first) = without.first().filter(|_| ranks.is_lead()) {
            let file = self.dataset.path.display();
            tracing::warn!(
                "{file}: the loss of {} rows is no number (NaN), from line {first} on: what they predict counts in no metric",
                without.len()
            );
        }
        let Sums { loss, labels, correct, divergence } = sums;
        if labels <= 0.0 {
            return Err(Error::invalid("no label counts in this data").in_file(&self.dataset.path));
        }
        let mean = loss / labels;
        let mut metrics = if self.hard_prompt.is_some() { vec![] } else { self.meter.metrics() };
        metrics.extend(self.divergence.map(|name| (name, divergence / labels)));
        let of_task = metrics.iter().find(|(name, _)| *name == "accuracy").map(|(_, value)| *value);
        Ok(Evaluation {
            loss: mean,
            perplexity: self.is_of_tokens().then(|| mean.exp()),
            // Rows may weigh differently in the loss, and count alike beside it.
            accuracy: of_task.or_else(|| correct.filter(|_| without.is_empty()).map(|correct| correct / labels)),
            metrics,
            confusion: self.meter.confusion().filter(|table| self.hard_prompt.is_none() && table.classes() > 0).cloned(),
            labels: whole(labels),
            tokens: num::wide(tokens),
            time: started.elapsed(),
        })
    }

    /// The inputs that batches are made for: the graph's, and the labels.
    fn inputs(&self) -> Vec<Port> {
        let own = self.session.inputs().iter().cloned();
        match self.form {
            LossSource::Graph => own.collect(),
            LossSource::Logits(_) => own.chain([logits::labels_port(self.dataset.task)]).collect(),
        }
    }

    /// What the parts of a batch give, and their rows.
    fn found_in(&mut self, parts: Vec<Batch>, trainable: Option<Feed<'_>>) -> Result<(Vec<BatchResult>, Vec<Vec<Example>>)> {
        let all = parts.into_iter().map(|part| self.found(part, trainable)).collect::<Result<Vec<_>>>()?;
        let (mut found, rows): (Vec<BatchResult>, Vec<_>) = all.into_iter().unzip();
        if let Some(loss) = self.of_all.as_mut().filter(|_| found.len() > 1) {
            let columns = gathered::columns(loss);
            let missing = || Error::not_found("output", VECTORS);
            let encoded = found
                .iter()
                .zip(&rows)
                .enumerate()
                .map(|(number, (found, rows))| Encoded::of(number, rows, found.predictions.first().ok_or_else(missing)?, &columns));
            let encoded = encoded.collect::<Result<Vec<_>>>()?;
            let mean: f32 = gathered::run(loss, &encoded, &[Output::Loss.name()])?[0].item()?;
            for part in &mut found {
                part.sums.loss = f64::from(mean) * part.sums.labels;
            }
        }
        Ok((found, rows))
    }

    /// What a batch gives, and its rows.
    fn found(&mut self, mut batch: Batch, trainable: Option<Feed<'_>>) -> Result<(BatchResult, Vec<Example>)> {
        let compared = self.reference.as_mut().map_or(Ok(vec![]), |reference| reference.complete(&mut batch))?;
        self.teacher.as_mut().map_or(Ok(()), |teacher| teacher.complete(&mut batch))?;
        let (mut sums, predictions) = self.run(&batch, trainable)?;
        if self.collation.adds_rows_up {
            sums.labels = batch.label_count;
        }
        Ok((BatchResult { sums, tokens: batch.tokens, predictions, compared }, batch.rows))
    }

    fn run(&mut self, batch: &Batch, trainable: Option<Feed<'_>>) -> Result<(Sums, Vec<HostTensor>)> {
        let mut feeds = batch.feeds();
        match &self.form {
            LossSource::Graph => {
                feeds.extend(trainable.filter(|feed| self.session.input(feed.name()).is_some()));
                let there =
                    |names: &[&'static str]| names.iter().copied().filter(|name| self.session.output(name).is_some()).collect::<Vec<_>>();
                let (read, beside) = (there(self.meter.reads()), there(self.meter.may_read()));
                let is_metered = read.len() == self.meter.reads().len() && self.hard_prompt.is_none();
                let told = ["correct", DIVERGENCE].into_iter().filter(|name| self.session.output(name).is_some());
                let sums: Vec<&str> = [Output::LossSum.name(), Output::LabelCount.name()].into_iter().chain(told).collect();
                let mut found = self.session.run(&feeds, &[&sums[..], &read[..], &beside[..]].concat())?;
                let number = |name: &str| match sums.iter().position(|sum| *sum == name) {
                    Some(at) => found[at].item().map(|value| Some(f64::from(value))),
                    None => Ok(None),
                };
                let (loss, labels) =
                    (number(Output::LossSum.name())?.unwrap_or(f64::NAN), number(Output::LabelCount.name())?.unwrap_or_default());
                let (correct, divergence) = (number("correct")?, number(DIVERGENCE)?.unwrap_or_default());
                let predictions = if is_metered { found.split_off(sums.len()) } else { vec![] };
                Ok((Sums { loss, labels, correct, divergence }, predictions))
            }
            LossSource::Logits(name) => {
                let (labels, feeds) = logits::without_labels(batch, feeds)?;
                let found = self.session.run(&feeds, &[name])?;
                let sums = logits::sums(&found[0], labels, self.dataset.task, self.hard_prompt)?;
                let is_metered = self.hard_prompt.is_none() && self.meter.reads() == ["logits"];
                Ok((sums, if is_metered { found } else { vec![] }))
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
