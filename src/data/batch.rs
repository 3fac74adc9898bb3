//! A dataset's batches in their order: which rows come together, and what is counted in them.

use std::collections::BTreeMap;

use super::collation::Collation;
use super::columns::{Rows, role};
use super::dataset::Dataset;
use super::example::{Example, IGNORED, Labels, Numbers};
use super::extent::Extent;
use super::masking::hidden;
use super::sampler::Epoch;
use super::shuffle::{Cursor, Order, Use, by_length, generator, share};
use crate::adapter::config::Task;
use crate::anatomy::{Modality, Padding, Reads, Role, Row};
use crate::error::{Context, Error, Place, Result};
use crate::num;
use crate::num::single;
use crate::ort::{Axis, Feed, HostTensor, Port};
use crate::parallel::Share;
use crate::train::class_terms::CLASS_WEIGHTS;
use crate::train::losses::{COMPLETION, DESIRABLE};
use crate::train::weights::WEIGHTS;

/// Some rows as tensors, each as long as the longest of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The graph's data inputs, by name, in the graph's order.
    pub tensors: Vec<(String, HostTensor)>,
    /// What the loss is divided by: labels that count (for causal models the first of each row does not), rows, or numbers; of sums over the rows of a batch, the
    /// share of them that are here.
    pub label_count: f64,
    /// What the second term of a loss is divided by, of losses that have one.
    pub second_count: f64,
    /// Tokens that are attended to.
    pub tokens: usize,
    /// The lines of the data file that the rows come from.
    pub lines: Vec<usize>,
    /// The rows themselves.
    pub rows: Vec<Example>,
    /// The places of the rows in the dataset.
    pub places: Vec<usize>,
    /// Which of the parts of a step it is, from 0.
    pub number: usize,
}

/// What the model runs on for one optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The parts that this process computes.
    pub batches: Vec<Batch>,
    /// The lines of the data file that the rows of all parts come from.
    pub lines: Vec<usize>,
}

impl Batch {
    /// The tensors as a session takes them.
    #[must_use]
    pub fn feeds(&self) -> Vec<Feed<'_>> {
        self.tensors.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect()
    }
}

/// A dataset's batches, epoch after epoch without end; the last batch of an epoch may be short.
pub struct Batches<'a> {
    dataset: &'a Dataset,
    inputs: Vec<Input>,
    takes_class_weights: bool,
    /// The input of weights, if the graph has one and not all rows weigh the same.
    weights: Option<Port>,
    batch_size: usize,
    order: Order,
    collation: Collation,
    cursor: Cursor,
    epoch: Option<(u64, Epoch)>,
}

/// A data input of the graph, and what it is for.
struct Input {
    port: Port,
    role: Role,
}

impl Collation {
    /// Whether rows that are given to the model together must be of one length, because what fills up short ones would be read.
    fn keeps_lengths_apart(&self, task: Task) -> bool {
        let is_read = match self.feeding.padding {
            Padding::Hidden | Padding::Before => false,
            // What is read of positions is read of a row's own.
            Padding::Later => !matches!(task.row().reads, Reads::Vocabulary | Reads::TokenLogits | Reads::TokenLogProbs),
            Padding::Read => true,
        };
        is_read && self.feeding.length.is_none()
    }

    /// Whether what a model says of a sound depends on those that come with it: it hears what fills short ones up, or has frames of that.
    #[must_use]
    pub fn hears_padding(&self, task: Task) -> bool {
        let is_mask = |role| matches!(role, Role::AttentionMask(_) | Role::EncoderAttentionMask(_) | Role::Lengths);
        let Row { modality, reads, .. } = task.row();
        *modality == Modality::Sound && (*reads == Reads::Frames || self.feeding.named(is_mask).next().is_none())
    }

    /// Whether parts of a batch are filled up to the batch's longest row: where the loss reads what fills rows up, and with sounds, of which it is
    /// rarely hidden from the model.
    fn fills_parts_alike(&self, task: Task) -> bool {
        let of_sounds = task.row().modality == Modality::Sound && self.micro_batch.is_some();
        of_sounds || (self.fills_alike && !self.keeps_lengths_apart(task))
    }

    /// How many rows the model runs on at most.
    fn most_rows(&self) -> Option<usize> {
        self.feeding.rows.into_iter().chain(self.micro_batch).min()
    }

    /// Whether a batch of this size may take the model several runs.
    #[must_use]
    pub fn parts_batches(&self, dataset: &Dataset, batch_size: usize) -> bool {
        let differ = || {
            let mut lengths = dataset.examples.iter().map(|example| example.longest_text());
            lengths.next().is_some_and(|first| lengths.any(|length| length != first))
        };
        self.most_rows().is_some_and(|rows| rows < batch_size) || (batch_size > 1 && self.keeps_lengths_apart(dataset.task) && differ())
    }

    /// The same, with the lengths that a session's inputs declare where none were recognised.
    fn declared_by(mut self, inputs: &[Port]) -> Self {
        let known = |axis: Option<&Axis>| if let Some(Axis::Known(length)) = axis { Some(*length) } else { None };
        for port in inputs {
            let Some(role) = role(port, &self.feeding) else { continue };
            if matches!(role, Role::InputIds | Role::PixelValues | Role::DecoderInputIds) {
                self.feeding.rows = self.feeding.rows.or(known(port.shape.first()));
            }
            if role == Role::InputIds {
                self.feeding.length = self.feeding.length.or(known(port.shape.get(1)));
            }
        }
        self
    }
}

impl<'a> Batches<'a> {
    /// Batches of `batch_size` consecutive rows for those of a session's inputs that are data, from the start of the first epoch.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if `batch_size` is 0, or if the task hides tokens and there is none to hide them behind.
    pub fn new(dataset: &'a Dataset, inputs: &[Port], batch_size: usize, order: Order, collation: Collation) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::invalid("a batch must have at least one row"));
        }
        if collation.mask.is_none() && dataset.examples.iter().any(|example| example.labels == Labels::Hidden) {
            let error = Error::invalid("rows without labels need a mask token to hide tokens behind").in_file(&dataset.path);
            return Err(error.with_hint("name a tokenizer that has a mask token, or write labels into the data file"));
        }
        let collation = collation.declared_by(inputs);
        collation.feeding.check()?;
        let takes_class_weights = inputs.iter().any(|port| port.name == CLASS_WEIGHTS);
        // Batch after batch, or never: what was given in one step is given in all.
        let are_weighed = || collation.feeding.rows.is_some() || dataset.examples.iter().any(|example| !example.weighs_one());
        let weights = inputs.iter().find(|port| port.name == WEIGHTS).filter(|_| are_weighed()).cloned();
        let has_segments = dataset.examples.iter().any(|example| !example.segments.is_empty());
        let inputs: Vec<Input> = inputs
            .iter()
            .filter_map(|port| Some(Input { role: role(port, &collation.feeding)?, port: port.clone() }))
            .filter(|input| input.role != Role::Segments || has_segments)
            .collect();
        warn_of_ragged(dataset, &inputs);
        if collation.keeps_lengths_apart(dataset.task) {
            warn_of_texts(dataset);
        }
        Ok(Self { dataset, inputs, takes_class_weights, weights, batch_size, order, collation, cursor: Cursor::default(), epoch: None })
    }

    /// Where the next batch begins.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to a place, as [`cursor`](Self::cursor) told it: the batches that follow are the same as they would have been.
    pub fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// Batches in an epoch.
    #[must_use]
    pub fn per_epoch(&self) -> usize {
        self.dataset.examples.len().div_ceil(self.batch_size)
    }

    /// The next batch in one piece, short rows filled up; after the last of an epoch, the first of the next.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) with the line if rows do not fit together or an input asks for what the rows do not have.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let (rows, epoch) = self.next_rows();
        self.batch_of(&rows, &rows, self.examples(&rows, epoch)?, &Extent::default())
    }

    /// The next batch in as many parts as the model needs runs for it: of as many rows as it takes, and of one length where nothing hides what
    /// fills rows up. Losses of the parts add up to that of the batch.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub fn next_parts(&mut self) -> Result<Vec<Batch>> {
        let (rows, epoch) = self.next_rows();
        self.made(&rows, epoch, 0, Share::ALL).map(|(batches, _)| batches)
    }

    /// Goes past the next batch, and gives the rows that it would have, part by part.
    pub fn skip_parts(&mut self) -> Vec<Vec<Example>> {
        let (rows, _) = self.next_rows();
        let parts = self.parts(&rows);
        parts.iter().map(|rows| rows.iter().map(|row| self.dataset.examples.get(*row).into_owned()).collect()).collect()
    }

    /// What the model runs on for one optimizer step: the parts of `count` batches, of fewer where the epoch ends. Of several processes each makes
    /// its share of the parts alone.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub fn next_group(&mut self, count: usize, share: Share) -> Result<Group> {
        let mut group = Group::default();
        let mut number = 0;
        for at in 0..count.max(1) {
            if at > 0 && self.cursor.position >= self.dataset.examples.len() {
                break;
            }
            let (rows, epoch) = self.next_rows();
            group.lines.extend(rows.iter().map(|row| self.dataset.examples.get(*row).line));
            let (batches, next) = self.made(&rows, epoch, number, share)?;
            group.batches.extend(batches);
            number = next;
        }
        Ok(group)
    }

    /// Those of the parts of these rows that are in a share, numbered from `first` on, and the number of the part behind the last.
    fn made(&self, rows: &[usize], epoch: u64, first: usize, share: Share) -> Result<(Vec<Batch>, usize)> {
        let parts = self.parts(rows);
        let next = first + parts.len();
        let is_alike = parts.len() > 1 && self.collation.fills_parts_alike(self.dataset.task);
        // Rows whose files tell how long they are are read once.
        let mut kept: BTreeMap<usize, Example> =
            if is_alike { rows.iter().copied().zip(self.examples(rows, epoch)?).collect() } else { BTreeMap::new() };
        let least = Extent::of(kept.values());
        let own = parts.iter().zip(first..).filter(|(_, number)| share.has(*number));
        let batches = own.map(|(part, number)| {
            let examples = if is_alike { part.iter().filter_map(|row| kept.remove(row)).collect() } else { self.examples(part, epoch)? };
            Ok(Batch { number, ..self.batch_of(rows, part, examples, &least)? })
        });
        Ok((batches.collect::<Result<_>>()?, next))
    }

    fn next_rows(&mut self) -> (Vec<usize>, u64) {
        let count = self.dataset.examples.len();
        if self.cursor.position >= count {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
        }
        let Cursor { epoch, position } = self.cursor;
        let order = match self.epoch.take() {
            Some((known, order)) if known == epoch => order,
            _ => {
                let texts = |row: usize| self.dataset.examples.get(row).text_marks();
                self.collation.sampler.parted(self.rows_of(epoch), self.batch_size, &texts)
            }
        };
        let rows = order.rows[position..order.end(position)].to_vec();
        self.cursor.position += rows.len();
        self.epoch = Some((epoch, order));
        (rows, epoch)
    }

    /// The rows of an epoch in the order in which they are read.
    fn rows_of(&self, epoch: u64) -> Vec<usize> {
        let rows = self.order.rows(self.dataset.examples.len(), epoch);
        match self.order {
            Order::ByLength { seed } => {
                let lengths: Vec<usize> = self.dataset.examples.iter().map(|example| example.longest()).collect();
                by_length(rows, |row| lengths[row], self.batch_size, seed, epoch)
            }
            Order::File | Order::Shuffled { .. } => rows,
        }
    }

    fn parts(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = vec![];
        let length = |row: usize| self.dataset.examples.get(row).longest_text();
        let apart = self.collation.keeps_lengths_apart(self.dataset.task);
        for &row in rows {
            match groups.iter_mut().find(|group| !apart || length(group[0]) == length(row)) {
                Some(group) => group.push(row),
                None => groups.push(vec![row]),
            }
        }
        let most = self.collation.most_rows().unwrap_or(usize::MAX).max(1);
        groups.iter().flat_map(|group| group.chunks(most)).map(<[usize]>::to_vec).collect()
    }

    /// Optimizer steps in an epoch, with `group` batches in each.
    #[must_use]
    pub fn groups_per_epoch(&self, group: usize) -> usize {
        self.per_epoch().div_ceil(group.max(1))
    }

    /// Rows as an epoch reads them: with their files, and with what chance changes.
    fn examples(&self, indices: &[usize], epoch: u64) -> Result<Vec<Example>> {
        let seed = self.order.seed().unwrap_or_default();
        let count = num::wide(self.dataset.examples.len());
        let drawn = |index: usize| epoch.wrapping_mul(count).wrapping_add(num::wide(index));
        let example = |index: &usize| {
            let mut random = generator(Use::Augmentation, seed, drawn(*index));
            let example = hidden(&self.dataset.examples.get(*index), &self.collation, seed, drawn(*index));
            example.with_media_changed(self.collation.augmentation, &mut || share(&mut random))
        };
        indices.iter().map(example).collect::<Result<_>>().in_file(&self.dataset.path)
    }

    /// The only length of what a decoder reads, if it has but one; labels are as many.
    fn decoder_length(&self) -> usize {
        let length = |Input { port, .. }: &Input| if let Some(Axis::Known(length)) = port.shape.get(1) { *length } else { 0 };
        self.inputs.iter().find(|input| input.role == Role::DecoderInputIds).map_or(0, length)
    }

    /// Rows of a batch as tensors: those of these indices, which are `examples`.
    fn batch_of(&self, batch: &[usize], indices: &[usize], mut examples: Vec<Example>, least: &Extent) -> Result<Batch> {
        let task = self.dataset.task;
        let (count, own) = (examples.len(), self.collation.feeding.rows.unwrap_or(examples.len()));
        if count > own {
            return Err(Error::mismatch("rows in a batch", format!("{own}, as many as the model takes"), count));
        }
        // The model takes so many rows and no fewer: the rest are rows that do not count.
        let filler = examples.last().map(Example::filler);
        examples.extend(filler.into_iter().cycle().take(own - count));
        let weighs_nothing = |example: &Example| example.labels == Labels::Column && self.weights.is_some();
        if own > count && examples.iter().any(|example| matches!(example.labels, Labels::Column | Labels::Row) && !weighs_nothing(example))
        {
            let error = Error::mismatch("rows in a batch", format!("{own}, the model's only number"), count).in_file(&self.dataset.path);
            return Err(error.with_hint("rows of this task cannot be padded: leave some out so that every batch is full"));
        }
        let texts = self.texts_of(batch, indices, &examples).in_file(&self.dataset.path)?;
        let least = least.with_labels(self.decoder_length());
        let rows = Rows::new(&examples, task, &self.collation, &least);
        let stacked = Rows::new(&texts, task, &self.collation, &least);
        let tensors = self.inputs.iter().map(|Input { port, role }| {
            // Labels of rows go with the first text alone.
            let is_of_rows = rows.are_labelled_by(&port.name) && !stacked.are_labelled_by(&port.name);
            let rows = if is_of_rows { &rows } else { &stacked };
            let tensor = rows.fill(port, *role).map_err(|error| error.at(Place::Tensor(port.name.clone())).in_file(&self.dataset.path))?;
            Ok((port.name.clone(), tensor))
        });
        let mut tensors = tensors.collect::<Result<Vec<_>>>()?;
        if self.takes_class_weights && !self.dataset.class_weights.is_empty() {
            let weights = self.dataset.class_weights.iter().copied().map(single).collect::<Vec<f32>>();
            tensors.push((CLASS_WEIGHTS.to_owned(), HostTensor::vector(weights)));
        }
        if let Some(port) = &self.weights {
            tensors.push((port.name.clone(), rows.weights(port)?));
        }
        examples.truncate(count);
        Ok(Batch {
            tensors,
            label_count: if self.collation.adds_rows_up {
                num::float(count) / num::float(batch.len().max(1))
            } else {
                examples.iter().map(|example| self.dataset.weight(example)).sum()
            },
            second_count: examples.iter().map(|example| self.dataset.second_weight(example)).sum(),
            tokens: texts.iter().take(texts.len() - (own - count)).map(Example::tokens).sum(),
            lines: examples.iter().map(|example| example.line).collect(),
            rows: examples,
            places: indices.to_vec(),
            number: 0,
        })
    }

    /// The texts of rows as inputs of the model: all first ones, then all second ones, and so on. Rows of one answer each have as their second text the answer of
    /// the row before in their batch, the first with the last's (TRL's `KTOTrainer`).
    ///
    /// # Errors
    /// Rows of different numbers of texts, with the line.
    fn texts_of(&self, batch: &[usize], indices: &[usize], examples: &[Example]) -> Result<Vec<Example>> {
        let is_judged = self.dataset.task == Task::Preference && examples.iter().all(|example| example.columns.contains_key(DESIRABLE));
        if is_judged {
            let before = |index: &usize| {
                let place = batch.iter().position(|row| row == index).unwrap_or_default();
                self.dataset.examples.get(batch[(place + batch.len() - 1) % batch.len()])
            };
            let mismatched = indices.iter().zip(examples).map(|(index, example)| mismatched(example, &before(index)));
            return Ok(examples.iter().cloned().chain(mismatched).collect());
        }
        let count = examples.first().map_or(0, |example| example.others.len());
        if let Some(example) = examples.iter().find(|example| example.others.len() != count) {
            let error = Error::mismatch("texts in this row", format!("{}, as in the same batch", count + 1), example.others.len() + 1);
            return Err(error.at(Place::Line(example.line)));
        }
        let part = |at: usize| examples.iter().map(move |example| example.others[at].clone());
        Ok(examples.iter().cloned().chain((0..count).flat_map(part)).collect())
    }
}

/// Says that short rows of numbers are filled up with zeros which the model reads, where no mask hides them.
fn warn_of_ragged(dataset: &Dataset, inputs: &[Input]) {
    if inputs.iter().any(|input| matches!(input.role, Role::AttentionMask(_) | Role::EncoderAttentionMask(_) | Role::Lengths)) {
        return;
    }
    let series = inputs.iter().filter(|input| input.role == Role::Column && input.port.shape.len() > 2);
    for name in series.map(|input| &input.port.name) {
        let mut lengths = dataset.examples.iter().filter_map(|example| example.columns.get(name)?.shape.first().copied());
        let Some(first) = lengths.next() else { continue };
        if let Some(other) = lengths.find(|length| *length != first) {
            tracing::warn!(
                "{}: rows of {name} have {first} steps, {other} and others, and the model has no mask: zeros fill short ones up to the longest of their batch, and the model reads them; rows of one length, or `batch_size` 1, avoid it",
                dataset.path.display()
            );
        }
    }
}

/// Says that the short texts of a row are filled up to its longest, where no mask hides that: rows are apart, the texts of one are not.
fn warn_of_texts(dataset: &Dataset) {
    let differ = |example: &Example| example.others.iter().any(|other| other.input_ids.len() != example.input_ids.len());
    if let Some(example) = dataset.examples.iter().find(|example| differ(example)) {
        tracing::warn!(
            "{}: the texts of a row have different lengths (first in line {}), and the model has no mask: short ones are filled up to the longest of their row, and the model reads that like text",
            dataset.path.display(),
            example.line
        );
    }
}

/// A row's prompt with the answer of another.
fn mismatched(example: &Example, other: &Example) -> Example {
    let begins = |example: &Example| {
        let learnt = example.columns.get(COMPLETION).map(|mask| mask.values.as_slice()).unwrap_or_default();
        learnt.iter().position(|counts| *counts > 0.0).unwrap_or(example.input_ids.len())
    };
    let (prompt, answer) = (&example.input_ids[..begins(example)], &other.input_ids[begins(other)..]);
    let input_ids: Vec<i32> = prompt.iter().chain(answer).copied().collect();
    let labels = std::iter::repeat_n(IGNORED, prompt.len()).chain(answer.iter().copied()).collect();
    let mask = (0..input_ids.len()).map(|at| f64::from(u8::from(at >= prompt.len()))).collect();
    let columns = [(COMPLETION.to_owned(), Numbers { shape: vec![input_ids.len()], values: mask })].into();
    Example { line: example.line, input_ids, labels: Labels::Tokens(labels), columns, ..Example::default() }
}
