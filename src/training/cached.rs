//! A step over a batch that is encoded in parts and whose loss is one: first all vectors, then the loss's gradient with respect to them, then
//! each part's gradient with respect to the adapter.

use super::graphs::{GRADIENT, narrow, open, with_optional};
use crate::contract::{GraphName, Output};
use crate::data::{Batch, Example, Labels};
use crate::error::{Error, Result};
use crate::export::Bundle;
use crate::num;
use crate::ort::{Device, DeviceTensor, Elements, Feed, HostTensor, Runtime, Session, Stepper};
use crate::train::cached::{VECTORS, VECTORS_GRADIENT};
use crate::train::losses::LABELS;

/// The graphs that make the gradient of a whole batch in parts.
pub(super) struct Cached {
    encode: Session,
    loss: Session,
    vjp: Stepper,
}

impl Cached {
    /// Opens the graphs of a bundle.
    ///
    /// # Errors
    /// A bundle without them: its loss does not need the whole batch.
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle, device: Device) -> Result<Self> {
        let open = |purpose: GraphName| open(runtime, bundle, purpose, device);
        Ok(Self {
            encode: open(GraphName::Encode)?,
            loss: open(GraphName::Loss)?,
            vjp: Stepper::new(open(GraphName::Vjp)?, &[GRADIENT], &[], std::num::NonZeroUsize::MIN)?,
        })
    }

    /// The inputs that a part's data are made for.
    pub(super) fn session(&self) -> &Session {
        self.vjp.session()
    }

    /// The loss of a batch in parts; its gradient is then in [`gradient`](Self::gradient). `optional` are fed where a graph has such inputs.
    ///
    /// # Errors
    /// If ONNX Runtime refuses.
    pub(super) fn step(&mut self, parts: &[Batch], trainable: Feed<'_>, seeds: &[Feed<'_>], step: Feed<'_>) -> Result<f32> {
        let mut vectors = vec![];
        for (part, seed) in parts.iter().zip(seeds) {
            let feeds = with_optional(&self.encode, part, &[trainable], &[*seed, step]);
            let known: Vec<Feed<'_>> = feeds.into_iter().filter(|feed| self.encode.input(feed.name()).is_some()).collect();
            vectors.extend(self.encode.run(&known, &[VECTORS])?);
        }
        let whole = joined(&vectors, parts)?;
        let labels = labels(parts)?;
        let mut feeds = vec![Feed::host(VECTORS, &whole)];
        feeds.extend(self.loss.input(LABELS).map(|_| Feed::host(LABELS, &labels)));
        let found = self.loss.run(&feeds, &[Output::Loss.name(), VECTORS_GRADIENT])?;
        let gradients = parted(&found[1], &vectors, parts)?;
        self.vjp.reset(GRADIENT.input)?;
        for ((part, seed), gradient) in parts.iter().zip(seeds).zip(&gradients) {
            let given = [Feed::host(VECTORS_GRADIENT, gradient), trainable];
            let feeds = with_optional(self.vjp.session(), part, &given, &[*seed, step]);
            let known: Vec<Feed<'_>> = feeds.into_iter().filter(|feed| self.vjp.session().input(feed.name()).is_some()).collect();
            self.vjp.step(&known)?;
            self.vjp.collect()?;
        }
        found[0].item()
    }

    /// The gradient of the last step.
    ///
    /// # Errors
    /// Never for graphs that could be opened.
    pub(super) fn gradient(&self) -> Result<&DeviceTensor> {
        self.vjp.state(GRADIENT.input)
    }
}

/// Texts that each row of a batch has.
fn texts(part: &Batch) -> usize {
    part.rows.first().map_or(1, |row| 1 + row.others.len())
}

fn width(vectors: &HostTensor) -> Result<usize> {
    vectors
        .shape()
        .last()
        .copied()
        .filter(|width| *width > 0)
        .ok_or_else(|| Error::mismatch("axes of embeddings", 2, vectors.shape().len()))
}

/// The vectors of all parts as the whole batch has them: all first texts, then all second ones, and so on.
fn joined(vectors: &[HostTensor], parts: &[Batch]) -> Result<HostTensor> {
    let (texts, width) = (parts.first().map_or(1, texts), vectors.first().map_or(Ok(1), width)?);
    let values = vectors.iter().map(HostTensor::to_f32).collect::<Result<Vec<_>>>()?;
    let mut whole = vec![];
    for text in 0..texts {
        for (values, part) in values.iter().zip(parts) {
            let rows = part.rows.len();
            whole.extend_from_slice(&values[text * rows * width..(text + 1) * rows * width]);
        }
    }
    HostTensor::new(vec![whole.len() / width, width], whole)
}

/// The reverse: each part's share of what is as the whole batch has it.
fn parted(whole: &HostTensor, like: &[HostTensor], parts: &[Batch]) -> Result<Vec<HostTensor>> {
    let (texts, width, values) = (parts.first().map_or(1, texts), width(whole)?, whole.to_f32()?);
    let all: usize = parts.iter().map(|part| part.rows.len()).sum();
    let mut first = 0;
    let mut shares = vec![];
    for (part, like) in parts.iter().zip(like) {
        let rows = part.rows.len();
        let of_text = |text: usize| values[(text * all + first) * width..(text * all + first + rows) * width].iter().copied();
        shares.push(HostTensor::new(like.shape().to_vec(), (0..texts).flat_map(of_text).collect::<Vec<f32>>())?);
        first += rows;
    }
    Ok(shares)
}

/// The labels of all parts: the rows' own places, or their numbers.
fn labels(parts: &[Batch]) -> Result<HostTensor> {
    let rows = || parts.iter().flat_map(|part| &part.rows);
    let count = rows().count();
    if rows().all(|row| row.labels == Labels::Row) {
        let places: Vec<i64> = (0..count).map(num::int).collect();
        return HostTensor::new([count], places);
    }
    let number = |row: &Example| row.columns.get(LABELS)?.values.first().copied().map(narrow);
    let numbers: Option<Vec<f32>> = rows().map(number).collect();
    HostTensor::new([count], Elements::Float32(numbers.ok_or_else(|| Error::not_found("column", LABELS))?))
}
