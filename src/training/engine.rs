//! The graphs that make an optimizer step, and the state that goes around.

use std::num::NonZeroUsize;

use indexmap::IndexMap;

use super::cached::Cached;
use super::graphs::{Computing, DROPOUT_SEED, GRADIENT, narrow, number, open, states, with_optional};
use super::loss_scale::LossScale;
use super::options::Optimizer;
use super::updater::{self, TOLD, Updater};
use crate::contract::{GraphName, Input, Output};
use crate::data::{Batch, Batches, Collation, Dataset, Order};
use crate::error::{Error, Result};
use crate::export::Bundle;
use crate::num;
use crate::ort::{DeviceTensor, Feed, HostTensor, Runtime, Session, Stepper};
use crate::parallel::{Parts, Ranks, Share};
use crate::train::precision::LOSS_SCALE;

/// What makes an optimizer step.
pub(super) struct Engine {
    graphs: Graphs,
    /// Runs of a step, at most.
    accumulation: usize,
    seed: u64,
    /// Batches of every step whose outcome was not collected yet.
    waiting: Vec<usize>,
    /// What the loss is scaled with, where gradients would leave the range of what they are computed in.
    pub(super) scale: Option<LossScale>,
}

enum Graphs {
    /// One graph does it all: one batch a step.
    Whole(Updater),
    /// The gradient of each batch is added up; then the update. Of several processes, the losses are known as soon as the gradient is.
    Parts { gradient: Box<Stepper>, update: Updater, losses: Vec<f32> },
    /// The batch is encoded in parts; its loss is one.
    Cached { cached: Box<Cached>, update: Updater, losses: Vec<f32> },
}

/// How graphs are opened.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    /// Where to compute, and in what.
    pub computing: Computing,
    /// Batches whose gradients are added up for one step.
    pub accumulation: NonZeroUsize,
    /// Steps whose outcome may wait on the device.
    pub waiting: NonZeroUsize,
    /// Processes that part the batches of a step.
    pub share: Share,
    /// Whether they part the optimizer's state as well.
    pub parts_state: bool,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// The loss before the update, mean over the labels that count.
    pub loss: f32,
    /// The norm of the whole gradient before clipping.
    pub grad_norm: f32,
    /// Whether the update was made: the state after it would be finite numbers.
    pub is_updated: bool,
    /// Whether it was not made because the loss was scaled too much, which it will not be again.
    pub is_skipped: bool,
}

impl Outcome {
    /// `update` is what the update tells, in the order of [`TOLD`].
    fn new(loss: f32, update: &[HostTensor]) -> Result<Self> {
        let [grad_norm, updated] = update else { return Err(Error::mismatch("numbers that an update tells", TOLD.len(), update.len())) };
        let updated: f32 = updated.item()?;
        Ok(Self { loss, grad_norm: grad_norm.item()?, is_updated: updated > 0.0, is_skipped: false })
    }

    /// Takes the scale out of the loss, and has the scale follow what came of the step.
    fn follow(&mut self, scale: &mut LossScale, is_in_loss: bool) {
        if is_in_loss {
            self.loss /= scale.factor();
        }
        if self.is_finite() {
            scale.made();
        } else {
            // Nothing helps a loss that is no number.
            self.is_skipped = self.loss.is_finite() && scale.missed();
        }
    }

    pub(super) fn is_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite() && self.is_updated
    }
}

impl Engine {
    /// Opens the graphs, for steps of as many batches each as are accumulated, each in so many parts at most.
    ///
    /// # Errors
    /// A bundle without the graphs, or with other inputs and outputs than training needs.
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle, options: &Opening, parts: NonZeroUsize) -> Result<Self> {
        let (own, computing) = (options.accumulation.saturating_mul(parts), options.computing);
        let scale = computing.precision.scales_loss().then(LossScale::default);
        // The scale of a step follows from the step before.
        let waiting = if scale.is_some() { NonZeroUsize::MIN } else { options.waiting };
        let accumulation = own.saturating_mul(NonZeroUsize::new(options.share.size).unwrap_or(NonZeroUsize::MIN));
        let update = |reader: &Session| {
            if !options.parts_state || options.share.size < 2 {
                return Updater::open(runtime, bundle, GraphName::Update, computing, (&[], waiting));
            }
            let parts = Parts::of(bundle.manifest().trainable_count, options.share);
            Updater::parted(runtime, bundle, computing, parts, reader)
        };
        let is_cached = parts.get() > 1 && bundle.manifest().graphs.contains_key(GraphName::Vjp.name());
        let graphs = if is_cached {
            if options.accumulation.get() > 1 {
                let error =
                    Error::unsupported("`gradient_accumulation_steps` with this loss", "it compares all rows of a batch with each other");
                return Err(error.with_hint("a larger `batch_size` with `micro_batch_size` takes as little memory, and learns more"));
            }
            let cached = Cached::open(runtime, bundle, computing)?;
            Graphs::Cached { update: update(cached.session())?, cached: Box::new(cached), losses: vec![] }
        } else if accumulation.get() > 1 || computing.precision.half().is_some() {
            // In half precision, the update is apart, in float32.
            let batches = waiting.saturating_mul(own);
            let gradient = open(runtime, bundle, GraphName::Gradient, computing)?;
            let update = update(&gradient)?;
            let gradient = Box::new(Stepper::new(gradient, &[GRADIENT], &[Output::Loss.name()], batches)?);
            Graphs::Parts { gradient, update, losses: vec![] }
        } else {
            Graphs::Whole(Updater::open(runtime, bundle, GraphName::Training, computing, (&[Output::Loss.name()], waiting))?)
        };
        Ok(Self { graphs, accumulation: accumulation.get(), seed: 0, waiting: vec![], scale })
    }

    /// Gives the optional inputs their values for all steps.
    ///
    /// # Errors
    /// If an input is of a type that a number cannot have.
    pub(super) fn configure(&mut self, optimizer: &Optimizer, seed: u64) -> Result<()> {
        self.seed = seed;
        let values = [
            (Input::WeightDecay.name(), optimizer.weight_decay),
            (Input::AdamBeta1.name(), optimizer.beta1),
            (Input::AdamBeta2.name(), optimizer.beta2),
            (Input::AdamEpsilon.name(), optimizer.epsilon),
            (Input::MaxGradNorm.name(), optimizer.max_grad_norm),
        ];
        for (name, value) in values {
            let update = self.updater_mut();
            let Some(port) = update.session().input(name) else { continue };
            let tensor = number(port, value)?;
            update.set(Feed::host(name, &tensor))?;
        }
        Ok(())
    }

    /// The data's batches for the inputs of these graphs.
    ///
    /// # Errors
    /// As [`Batches::new`].
    pub(super) fn batches<'a>(&self, dataset: &'a Dataset, batch_size: usize, order: Order, collation: Collation) -> Result<Batches<'a>> {
        Batches::new(dataset, self.reader().inputs(), batch_size, order, collation)
    }

    /// One optimizer step over the batches that were made for it, of several processes over those of all. `step` counts from 1. What came of it waits
    /// on the device until it is [collected](Self::collect).
    ///
    /// If the gradient is not finite the state stays what it was.
    ///
    /// # Errors
    /// If no batches were made, or ONNX Runtime refuses; the state is then what it was.
    pub(super) fn step(&mut self, ranks: &Ranks<'_>, made: Result<&[Batch]>, step: u64, learning_rate: f64) -> Result<()> {
        let seed = |batch: &Batch| HostTensor::scalar(dropout_seed(self.seed, self.accumulation, step, batch.number));
        let numbered = |step: u64| HostTensor::scalar(i64::try_from(step).unwrap_or(i64::MAX));
        let (number, own_number) = (numbered(step), numbered(self.scale.map_or(step, |scale| scale.number_of(step))));
        let scale = HostTensor::scalar(self.scale.map_or(1.0, LossScale::factor));
        let (scale, update_number) = (Feed::host(LOSS_SCALE, &scale), Feed::host(Input::Step.name(), &own_number));
        let rate = HostTensor::scalar(narrow(learning_rate));
        let (step, rate) = (Feed::host(Input::Step.name(), &number), Feed::host(Input::LearningRate.name(), &rate));
        let batches = match &mut self.graphs {
            Graphs::Whole(update) => {
                let [batch] = made? else { return Err(Error::invalid("a step of one batch did not get one")) };
                let seed = seed(batch);
                update.step_whole(&with_optional(update.session(), batch, &[step, rate], &[Feed::host(DROPOUT_SEED, &seed)]))?;
                1
            }
            Graphs::Parts { gradient, update, losses } => {
                let (batches, own) = match made {
                    Ok(batches) => (batches, Ok(counted(batches, |batch| batch.label_count))),
                    Err(error) => (&[][..], Err(error)),
                };
                let count = above_nothing(ranks.total(own)?);
                let has_second = gradient.session().input(Input::SecondCount.name()).is_some();
                let second = has_second.then(|| ranks.total(Ok(counted(batches, |batch| batch.second_count)))).transpose()?;
                let second = second.map(above_nothing);
                let second: Vec<Feed<'_>> = second.iter().map(|count| Feed::host(Input::SecondCount.name(), count)).collect();
                gradient.reset(GRADIENT.input)?;
                let added = batches.iter().try_for_each(|batch| {
                    let trainable = Feed::device(Input::Trainable.name(), update.trainable()?);
                    let (seed, count) = (seed(batch), Feed::host(Input::LabelCount.name(), &count));
                    let optional = [Feed::host(DROPOUT_SEED, &seed), step, scale];
                    let given = [&[count, trainable], &second[..]].concat();
                    gradient.step(&with_optional(gradient.session(), batch, &given, &optional))
                });
                losses.extend(reduced(ranks, gradient, update.parts(), added)?);
                update.step(ranks, gradient, [update_number, rate])?;
                batches.len()
            }
            Graphs::Cached { cached, update, losses } => {
                let trainable = Feed::device(Input::Trainable.name(), update.trainable()?);
                losses.push(cached.step((ranks, update.parts()), made, trainable, &seed, [step, scale])?);
                update.step(ranks, cached.gradient(), [update_number, rate])?;
                1
            }
        };
        self.waiting.push(batches);
        Ok(())
    }

    /// Whether a loss compares all rows of a step, those of all processes, and the model runs on parts of them.
    pub(super) fn compares_all_rows(&self) -> bool {
        matches!(self.graphs, Graphs::Cached { .. })
    }

    /// Whether what came of the steps has to be collected before the next one.
    pub(super) fn is_full(&self) -> bool {
        self.updater().is_full()
    }

    /// What came of every step since the last call, oldest first.
    ///
    /// If the last of them is not finite it is taken back.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn collect(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes: Vec<Outcome> = match &mut self.graphs {
            Graphs::Whole(update) => update.collect()?.iter().map(|row| Outcome::new(row[0].item()?, &row[1..])).collect::<Result<_>>()?,
            Graphs::Parts { update, losses, .. } if !losses.is_empty() => {
                let steps = std::mem::take(losses).into_iter().zip(update.collect()?);
                steps.map(|(loss, row)| Outcome::new(loss, &row)).collect::<Result<_>>()?
            }
            Graphs::Parts { gradient, update, .. } => {
                let losses = gradient.collect()?.iter().map(|row| row[0].item()).collect::<Result<Vec<_>>>()?;
                let mut losses = losses.into_iter();
                let steps = self.waiting.iter().zip(update.collect()?);
                steps.map(|(&batches, row)| Outcome::new(losses.by_ref().take(batches).sum(), &row)).collect::<Result<_>>()?
            }
            Graphs::Cached { update, losses, .. } => {
                let steps = std::mem::take(losses).into_iter().zip(update.collect()?);
                steps.map(|(loss, row)| Outcome::new(loss, &row)).collect::<Result<_>>()?
            }
        };
        self.waiting.clear();
        if let Some(scale) = &mut self.scale {
            // The loss of all vectors is not scaled, only its gradient.
            let scales_loss = matches!(self.graphs, Graphs::Parts { .. });
            for outcome in &mut outcomes {
                outcome.follow(scale, scales_loss);
            }
        }
        if outcomes.last().is_some_and(|outcome| !outcome.is_finite()) {
            self.updater_mut().take_back();
        }
        Ok(outcomes)
    }

    /// The trainable vector, where it is.
    ///
    /// # Errors
    /// Never for graphs that could be opened.
    pub(super) fn trainable(&self) -> Result<&DeviceTensor> {
        self.updater().trainable()
    }

    /// The names of the parts of the state.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        states(self.updater().session()).iter().map(|state| state.input).collect()
    }

    /// The singular values that are masked, where ranks are allocated.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn masked(&self, ranks: &Ranks<'_>) -> Result<Option<Vec<f32>>> {
        let part = Input::MaskedRanks.name();
        self.parts().contains(&part).then(|| self.read(ranks, part)).transpose()
    }

    /// A part of the state in ordinary memory, whole in the process that leads.
    ///
    /// # Errors
    /// If there is no such part, the device refuses, or a process is gone.
    pub(super) fn read(&self, ranks: &Ranks<'_>, part: &str) -> Result<Vec<f32>> {
        self.updater().read(ranks, part)
    }

    /// The whole state after a step, in the process that leads.
    ///
    /// # Errors
    /// A state that is not finite, or is another in another process.
    pub(super) fn state(&self, ranks: &Ranks<'_>, step: u64) -> Result<IndexMap<String, Vec<f32>>> {
        let parts = self.parts();
        let state = parts.iter().map(|part| Ok(((*part).to_owned(), self.read(ranks, part)?))).collect::<Result<_>>()?;
        // Moments that are parted are another part in each process.
        let alike: Vec<&str> = if self.updater().parts().is_some() { vec![Input::Trainable.name()] } else { parts };
        updater::check(ranks, step, &state, &alike)?;
        Ok(state)
    }

    /// How many numbers a part of the state has.
    ///
    /// # Errors
    /// If there is no such part.
    pub(super) fn length(&self, part: &str) -> Result<usize> {
        self.updater().length(part)
    }

    /// Overwrites a part of the state.
    ///
    /// # Errors
    /// If it is of another length.
    pub(super) fn write(&mut self, part: &str, values: Vec<f32>) -> Result<()> {
        self.updater_mut().write(part, values)
    }

    fn updater(&self) -> &Updater {
        match &self.graphs {
            Graphs::Whole(update) | Graphs::Parts { update, .. } | Graphs::Cached { update, .. } => update,
        }
    }

    fn updater_mut(&mut self) -> &mut Updater {
        match &mut self.graphs {
            Graphs::Whole(update) | Graphs::Parts { update, .. } | Graphs::Cached { update, .. } => update,
        }
    }

    /// The session that reads data.
    fn reader(&self) -> &Session {
        match &self.graphs {
            Graphs::Whole(update) => update.session(),
            Graphs::Parts { gradient, .. } => gradient.session(),
            Graphs::Cached { cached, .. } => cached.session(),
        }
    }
}

/// What the losses of batches are divided by.
fn counted(batches: &[Batch], count: impl Fn(&Batch) -> f64) -> f64 {
    batches.iter().map(count).sum()
}

/// A number to divide by; 1 where nothing counts.
fn above_nothing(count: f64) -> HostTensor {
    HostTensor::scalar(narrow(if count > 0.0 { count } else { 1.0 }))
}

/// Adds the gradients of all processes up, and gives the loss of all their batches; none where there is but one, whose losses stay on the device. `added` is
/// what came of adding up this one's own.
fn reduced(ranks: &Ranks<'_>, gradient: &mut Stepper, parts: Option<&Parts>, added: Result<()>) -> Result<Option<f32>> {
    if !ranks.are_several() {
        return added.map(|()| None);
    }
    let own =
        added.and_then(|()| Ok(gradient.collect()?.iter().map(|row| row[0].item()).collect::<Result<Vec<_>>>()?.into_iter().sum::<f32>()));
    gradient.change(GRADIENT.input, &mut |values| ranks.reduce_parts(values, parts))?;
    ranks.total(own.map(f64::from)).map(|loss| Some(narrow(loss)))
}

/// The seed of a part's dropout: it follows from the run's seed and the part's number alone, so that a resumed run drops the same, and so do several processes.
fn dropout_seed(seed: u64, accumulation: usize, step: u64, at: usize) -> i64 {
    let number = (step.wrapping_sub(1)).wrapping_mul(num::wide(accumulation)).wrapping_add(num::wide(at));
    i64::try_from(scrambled(seed.wrapping_add(scrambled(number))) >> 33).unwrap_or_default()
}

/// The finalizer of `SplitMix64` (Steele, Lea & Flood 2014): every bit of the result depends on every bit of the argument.
fn scrambled(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
