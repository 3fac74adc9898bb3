//! A step over a batch that is encoded in parts and whose loss is one: first all vectors, then the loss's gradient with respect to them, then
//! each part's gradient with respect to the adapter.

use super::graphs::{Computing, DROPOUT_SEED, GRADIENT, narrow, open, with_optional};
use crate::adapter::PENALTY;
use crate::contract::{GraphName, Input, Output};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::evaluate::gathered::{self, Encoded};
use crate::export::Bundle;
use crate::num;
use crate::ort::{Feed, HostTensor, Runtime, Session, Stepper};
use crate::parallel::{Parts, Ranks, Reader, Writer};
use crate::train::cached::{VECTORS, VECTORS_GRADIENT};

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
        let all = exchanged(ranks, encoded, gathered::columns(&self.loss).len())?;
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
        let mut encoded = Encoded::of(part.number, &part.rows, vectors, &gathered::columns(&self.loss))?;
        encoded.penalty = penalty;
        Ok(encoded)
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
        let found = gathered::run(&mut self.loss, all, &[Output::Loss.name(), VECTORS_GRADIENT])?;
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
