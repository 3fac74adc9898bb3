//! A step over a batch that is encoded in parts and whose loss is one: first all vectors, then the loss's gradient with respect to them, then
//! each part's gradient with respect to the adapter.

use super::graphs::{Computing, DROPOUT_SEED, GRADIENT, narrow, open, with_optional};
use crate::adapter::PENALTY;
use crate::contract::{GraphName, Input, Output};
use crate::data::{Batch, Example, Labels};
use crate::error::{Error, Result};
use crate::export::Bundle;
use crate::num;
use crate::ort::{Feed, HostTensor, Runtime, Session, Stepper};
use crate::parallel::{Parts, Ranks, Reader, Writer};
use crate::train::cached::{VECTORS, VECTORS_GRADIENT};
use crate::train::losses::LABELS;
use crate::train::weights::WEIGHTS;

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
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle, computing: Computing) -> Result<Self> {
        let open = |purpose: GraphName| open(runtime, bundle, purpose, computing);
        Ok(Self {
            encode: open(GraphName::Encode)?,
            loss: open(GraphName::Loss)?,
            vjp: Stepper::new(open(GraphName::Vjp)?, &[GRADIENT], &[], std::num::NonZeroUsize::MIN)?,
        })
    }

    /// The session whose inputs a part's data are made for: a reference is compared with here alone.
    pub(super) fn session(&self) -> &Session {
        &self.encode
    }

    /// The loss of a batch in parts, of which every process has its share; its gradient, or this process's `own` part of it, is then in [`gradient`](Self::gradient). `known` are the step's number and the scale of the
    /// gradient.
    ///
    /// # Errors
    /// If no parts were made, or ONNX Runtime refuses.
    pub(super) fn step(
        &mut self,
        (ranks, own): (&Ranks<'_>, Option<&Parts>),
        made: Result<&[Batch]>,
        trainable: Feed<'_>,
        seed: &dyn Fn(&Batch) -> HostTensor,
        known: [Feed<'_>; 2],
    ) -> Result<f32> {
        let (parts, came) = match made {
            Ok(parts) => (parts, Ok(())),
            Err(error) => (&[][..], Err(error)),
        };
        let encoded = came.and_then(|()| parts.iter().map(|part| self.encoded(part, trainable, &seed(part), known)).collect());
        let all = exchanged(ranks, encoded, self.columns().len())?;
        let penalty = all.iter().find_map(|part| part.penalty.first()).copied().unwrap_or_default();
        let added = self.add_up(parts, &all, trainable, seed, known).map(|loss| loss + penalty);
        if !ranks.are_several() {
            return added;
        }
        self.vjp.change(GRADIENT.input, &mut |values| ranks.reduce_parts(values, own))?;
        // Each has the loss of all.
        ranks.agree(added)
    }

    /// The vectors of a part.
    fn encoded(&mut self, part: &Batch, trainable: Feed<'_>, seed: &HostTensor, [step, _]: [Feed<'_>; 2]) -> Result<Encoded> {
        let feeds = with_optional(&self.encode, part, &[trainable], &[Feed::host(DROPOUT_SEED, seed), step]);
        let known: Vec<Feed<'_>> = feeds.into_iter().filter(|feed| self.encode.input(feed.name()).is_some()).collect();
        let penalty = self.encode.output(PENALTY).map(|_| PENALTY);
        let wanted: Vec<&str> = std::iter::once(VECTORS).chain(penalty).collect();
        let found = self.encode.run(&known, &wanted)?;
        let vectors = found.first().ok_or_else(|| Error::not_found("output", VECTORS))?;
        let penalty = found.get(1).map(HostTensor::to_f32).transpose()?.unwrap_or_default();
        Ok(Encoded { penalty, ..Encoded::of(part, vectors, &self.columns())? })
    }

    /// What the loss reads of rows beside their vectors.
    fn columns(&self) -> Vec<String> {
        self.loss.inputs().iter().map(|port| port.name.clone()).filter(|name| name != VECTORS).collect()
    }

    /// The loss of all vectors, and the gradients of this process's own parts, added up.
    fn add_up(
        &mut self,
        parts: &[Batch],
        all: &[Encoded],
        trainable: Feed<'_>,
        seed: &dyn Fn(&Batch) -> HostTensor,
        [step, scale]: [Feed<'_>; 2],
    ) -> Result<f32> {
        self.vjp.reset(GRADIENT.input)?;
        let whole = joined(all)?;
        let columns = self.columns().into_iter().enumerate();
        let columns = columns.map(|(at, name)| Ok((name, column(all, at)?))).collect::<Result<Vec<_>>>()?;
        let feeds: Vec<Feed<'_>> =
            std::iter::once(Feed::host(VECTORS, &whole)).chain(columns.iter().map(|(name, values)| Feed::host(name, values))).collect();
        let found = self.loss.run(&feeds, &[Output::Loss.name(), VECTORS_GRADIENT])?;
        let gradients = parted(&found[1], all)?;
        let share = HostTensor::scalar(narrow(1.0 / num::float(all.len().max(1))));
        for part in parts {
            let Some((_, gradient)) = gradients.iter().find(|(number, _)| *number == part.number) else { continue };
            let (given, seed) = ([Feed::host(VECTORS_GRADIENT, gradient), trainable], seed(part));
            let optional = [Feed::host(DROPOUT_SEED, &seed), step, scale, Feed::host(Input::PenaltyShare.name(), &share)];
            let feeds = with_optional(self.vjp.session(), part, &given, &optional);
            let known: Vec<Feed<'_>> = feeds.into_iter().filter(|feed| self.vjp.session().input(feed.name()).is_some()).collect();
            self.vjp.step(&known)?;
            self.vjp.collect()?;
        }
        found[0].item()
    }

    /// What has the gradient of the last step.
    pub(super) fn gradient(&mut self) -> &mut Stepper {
        &mut self.vjp
    }
}

/// The vectors of a part's texts.
struct Encoded {
    /// Which of the parts of the step it is.
    number: usize,
    rows: usize,
    width: usize,
    /// `[texts, rows, width]`.
    vectors: Vec<f32>,
    /// Each column that the loss reads, a number for each row; none where a row's is its place in the batch.
    columns: Vec<Vec<f32>>,
    /// What the adapter adds to the loss, of every part the same number; none of an adapter that adds nothing.
    penalty: Vec<f32>,
}

impl Encoded {
    fn of(part: &Batch, vectors: &HostTensor, columns: &[String]) -> Result<Self> {
        let width = vectors.shape().last().copied().filter(|width| *width > 0);
        let width = width.ok_or_else(|| Error::mismatch("axes of embeddings", 2, vectors.shape().len()))?;
        let columns = columns.iter().map(|name| numbers(&part.rows, name)).collect::<Result<_>>()?;
        let (vectors, rows) = (vectors.to_f32()?, part.rows.len());
        if vectors.len() % (rows * width).max(1) != 0 {
            return Err(Error::mismatch("numbers of a part's embeddings", format!("{width} for each text of {rows} rows"), vectors.len()));
        }
        Ok(Self { number: part.number, rows, width, vectors, columns, penalty: vec![] })
    }

    /// Texts of each row.
    fn texts(&self) -> usize {
        self.vectors.len() / (self.rows * self.width).max(1)
    }

    fn write(&self, out: Writer) -> Writer {
        let out = out.counts(&[self.number, self.rows, self.width]).numbers(&self.vectors).numbers(&self.penalty);
        self.columns.iter().fold(out, |out, column| out.numbers(column))
    }

    fn read(reader: &mut Reader<'_>, columns: usize) -> Result<Self> {
        let facts = reader.counts()?;
        let [number, rows, width] = facts[..] else { return Err(Error::mismatch("facts of a part", 3, facts.len())) };
        let (vectors, penalty) = (reader.numbers()?, reader.numbers()?);
        Ok(Self { number, rows, width, vectors, columns: (0..columns).map(|_| reader.numbers()).collect::<Result<_>>()?, penalty })
    }

    /// The vectors of its texts of a place.
    fn of_text(&self, text: usize) -> &[f32] {
        let size = self.rows * self.width;
        &self.vectors[text * size..(text + 1) * size]
    }
}

/// A number of each row for an input of the loss: what it weighs, or its column's; none where labels are the rows' places.
fn numbers(rows: &[Example], input: &str) -> Result<Vec<f32>> {
    if input == WEIGHTS {
        return Ok(rows.iter().map(|row| narrow(row.weight())).collect());
    }
    if input == LABELS && rows.iter().all(|row| row.labels == Labels::Row) {
        return Ok(vec![]);
    }
    let number = |row: &Example| row.columns.get(input)?.values.first().copied().map(narrow);
    rows.iter().map(number).collect::<Option<_>>().ok_or_else(|| Error::not_found("column", input))
}

/// The parts of all processes, in the order of the batch; the loss reads so many columns.
fn exchanged(ranks: &Ranks<'_>, own: Result<Vec<Encoded>>, columns: usize) -> Result<Vec<Encoded>> {
    if !ranks.are_several() {
        return own;
    }
    let all = ranks.gather(own.map(|parts| parts.iter().fold(Writer::default(), |out, part| part.write(out)).finish()))?;
    let mut parts = vec![];
    for bytes in &all {
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            parts.push(Encoded::read(&mut reader, columns)?);
        }
    }
    parts.sort_by_key(|part| part.number);
    Ok(parts)
}

/// The vectors of all parts as the whole batch has them: all first texts, then all second ones, and so on.
fn joined(parts: &[Encoded]) -> Result<HostTensor> {
    let (texts, width) = parts.first().map_or((1, 1), |part| (part.texts(), part.width));
    if let Some(other) = parts.iter().find(|part| (part.texts(), part.width) != (texts, width)) {
        return Err(Error::mismatch("texts of a row", texts, other.texts()));
    }
    let whole: Vec<f32> = (0..texts).flat_map(|text| parts.iter().flat_map(move |part| part.of_text(text)).copied()).collect();
    HostTensor::new(vec![whole.len() / width, width], whole)
}

/// The reverse: each part's share of what is as the whole batch has it, with the part's number.
fn parted(whole: &HostTensor, parts: &[Encoded]) -> Result<Vec<(usize, HostTensor)>> {
    let values = whole.to_f32()?;
    let all: usize = parts.iter().map(|part| part.rows).sum();
    let mut first = 0;
    let mut shares = vec![];
    for part in parts {
        let Encoded { number, rows, width, .. } = part;
        let of_text = |text: usize| values[(text * all + first) * width..(text * all + first + rows) * width].iter().copied();
        let share: Vec<f32> = (0..part.texts()).flat_map(of_text).collect();
        shares.push((*number, HostTensor::new(vec![part.texts() * rows, *width], share)?));
        first += rows;
    }
    Ok(shares)
}

/// A column of all parts: the rows' own places, or their numbers.
fn column(parts: &[Encoded], at: usize) -> Result<HostTensor> {
    let count = parts.iter().map(|part| part.rows).sum();
    if parts.iter().all(|part| part.columns[at].is_empty()) {
        let places: Vec<i64> = (0..count).map(num::int).collect();
        return HostTensor::new([count], places);
    }
    HostTensor::new([count], parts.iter().flat_map(|part| part.columns[at].iter().copied()).collect::<Vec<f32>>())
}
