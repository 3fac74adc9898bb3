//! A session that gives what a task reads, run over questions; results in their order.

use std::path::Path;

use crate::anatomy::Role;
use crate::contract::Input;
use crate::data::{Asked, Batches, Dataset, Example, Order};
use crate::error::{Error, Result};
use crate::evaluate::reference::Reference;
use crate::generate::Worn;
use crate::ort::{Axis, Feed, Port, Presence, Session};
use crate::ort::{ElementType, HostTensor};
use crate::train::losses::{COMPLETION, LABELS, REFERENCE};
use crate::training::Source;

/// What a model gave for one input: of each output, its axes without the batch's, and its values.
pub(super) type Outputs = Vec<(Vec<usize>, Vec<f32>)>;

/// An open graph and the outputs that are read.
pub(super) struct Runner {
    session: Session,
    outputs: Vec<String>,
    trainable: Option<HostTensor>,
}

impl Runner {
    /// # Errors
    /// A graph without one of the outputs.
    pub(super) fn new(session: Session, outputs: Vec<String>, trainable: Option<Vec<f32>>) -> Result<Self> {
        match outputs.iter().find(|name| session.output(name).is_none()) {
            Some(name) => Err(Error::not_found("output", name.as_str()).in_file(session.path())),
            None => Ok(Self { session, outputs, trainable: trainable.map(HostTensor::vector) }),
        }
    }

    /// Whether the adapter is given run by run.
    pub(super) fn has_trainable(&self) -> bool {
        self.trainable.is_some()
    }

    /// Runs with another trainable vector from now on.
    pub(super) fn train_with(&mut self, vector: Vec<f32>) {
        self.trainable = Some(HostTensor::vector(vector));
    }

    /// What the model gives for each part of each question. `worn` has a number for each question, where its rows have numbers.
    pub(super) fn run(
        &mut self,
        asked: &[Asked],
        file: &Path,
        source: &Source,
        batch_size: usize,
        worn: Worn<'_>,
    ) -> Result<Vec<Vec<Outputs>>> {
        let dataset = dataset(asked, file, source);
        let inputs = self.session.inputs().to_vec();
        let numbers: Vec<i64> = worn.rows.map_or_else(Vec::new, |(_, rows)| {
            asked.iter().zip(rows).flat_map(|(row, number)| std::iter::repeat_n(*number, row.question.parts.len())).collect()
        });
        let trainable = self.trainable.as_ref().map(|vector| Feed::host(Input::Trainable.name(), vector));
        let mut found: Vec<Outputs> = vec![vec![]; dataset.examples.len()];
        let collation = source.collation();
        let batch_size = if collation.hears_padding(source.task()) { 1 } else { batch_size };
        let mut batches = Batches::new(&dataset, &inputs, batch_size, Order::File, collation)?;
        for _ in 0..batches.per_epoch() {
            for batch in batches.next_parts()? {
                let of_rows: Vec<i64> = batch.places.iter().filter_map(|place| numbers.get(*place).copied()).collect();
                let of_batch = Worn { rows: worn.rows.map(|(name, _)| (name, of_rows.as_slice())), ..worn };
                let of_rows = of_batch.numbers();
                let mut feeds = batch.feeds();
                feeds.extend(of_batch.feeds(of_rows.as_ref()));
                feeds.extend(trainable.filter(|feed| self.session.input(feed.name()).is_some()));
                let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
                for tensor in self.session.run(&feeds, &outputs)? {
                    let (rest, values) = (tensor.shape().get(1..).unwrap_or_default().to_vec(), tensor.to_f32()?);
                    let size = rest.iter().product::<usize>();
                    if values.len() < batch.places.len() * size {
                        return Err(Error::mismatch("rows that the model gives", batch.places.len(), format!("{:?}", tensor.shape())));
                    }
                    for (at, place) in batch.places.iter().enumerate() {
                        found[*place].push((rest.clone(), values[at * size..(at + 1) * size].to_vec()));
                    }
                }
            }
        }
        Ok(parted(found, asked))
    }
}

/// The log-probability of each answer that rows have.
pub(super) fn judged(judge: &mut Reference, asked: &[Asked], file: &Path, source: &Source, batch_size: usize) -> Result<Vec<Vec<f64>>> {
    let dataset = dataset(asked, file, source);
    let port = |name: &str, element_type: ElementType, axes: usize| Port {
        name: name.to_owned(),
        element_type: Some(element_type),
        shape: vec![Axis::Free(String::new()); axes],
        presence: Presence::Required,
    };
    let labels = [port(LABELS, ElementType::Int64, 2), port(COMPLETION, ElementType::Float32, 2), port(REFERENCE, ElementType::Float32, 1)];
    let inputs: Vec<Port> = judge.inputs().iter().filter(|input| input.name != LABELS).cloned().chain(labels).collect();
    let mut collation = source.collation();
    collation.feeding.inputs.insert(LABELS.to_owned(), Role::Labels);
    collation.feeding.inputs.extend([COMPLETION, REFERENCE].map(|name| (name.to_owned(), Role::Column)));
    let mut found = vec![f64::NAN; dataset.examples.len()];
    let mut batches = Batches::new(&dataset, &inputs, batch_size, Order::File, collation)?;
    for _ in 0..batches.per_epoch() {
        for mut batch in batches.next_parts()? {
            judge.complete(&mut batch)?;
            judge.forget();
            for (place, row) in batch.places.iter().zip(&batch.rows) {
                found[*place] = row.columns.get(REFERENCE).and_then(|sum| sum.values.first()).copied().unwrap_or(f64::NAN);
            }
        }
    }
    Ok(parted(found, asked))
}

fn dataset(asked: &[Asked], file: &Path, source: &Source) -> Dataset {
    let examples: Vec<Example> = asked.iter().flat_map(|row| &row.question.parts).map(|(_, example)| example.clone()).collect();
    Dataset::of(file, source.task(), examples)
}

/// What was found for all parts, by question.
fn parted<T>(found: Vec<T>, asked: &[Asked]) -> Vec<Vec<T>> {
    let mut found = found.into_iter();
    asked.iter().map(|row| found.by_ref().take(row.question.parts.len()).collect()).collect()
}
