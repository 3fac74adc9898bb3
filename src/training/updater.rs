//! What makes a step of a finished gradient: the state whole in every process, or its moments parted among them (`ZeRO` stage 1).
//!
//! ```text
//!   gradient of a process ─ reduce-scatter ─▶ own part ─▶ update ─▶ own part of the vector ─ gather ─▶ the vector
//!                                               │ norm      │ updated
//!                                               └─ total    └─ total
//! ```

use std::num::NonZeroUsize;

use indexmap::IndexMap;

use super::ending::SMALLER;
use super::graphs::{Computing, GRADIENT, narrow, open, open_update_as, states};
use crate::contract::{GraphName, Input, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Bundle;
use crate::ort::{DeviceTensor, Feed, HostTensor, Runtime, Session, Stepper};
use crate::parallel::{Parts, Ranks};
use crate::train::optimizer::{WHOLE_NORM, part_graph};

/// What an update tells of itself.
pub(super) const TOLD: [&str; 2] = [Output::GradNorm.name(), Output::Updated.name()];
const TRAINABLE: &str = Input::Trainable.name();

/// A graph that makes updates; it tells whether it made one.
fn open_update(runtime: &Runtime, bundle: &Bundle, graph: GraphName, computing: Computing) -> Result<Session> {
    let session = open(runtime, bundle, graph, computing)?;
    let missing = TOLD.into_iter().find(|name| session.output(name).is_none());
    let Some(missing) = missing else { return Ok(session) };
    let error = Error::not_found("output of its graphs", missing).in_file(bundle.folder());
    Err(error.with_hint("an earlier version wrote this bundle: inject again (with `adapter`, from what it learnt)"))
}

/// A graph that makes updates, with the state that goes around in it.
fn stepper(session: Session, results: &[&str], waiting: NonZeroUsize) -> Result<Box<Stepper>> {
    let states = states(&session);
    Stepper::new(session, &states, results, waiting).map(Box::new)
}

/// The graph of updates, and its state.
pub(super) struct Updater {
    stepper: Box<Stepper>,
    parted: Option<Parted>,
}

/// What a process has whose moments are of a part alone.
struct Parted {
    parts: Parts,
    /// The whole vector, which the gradient's graph reads.
    whole: DeviceTensor,
    /// What came of steps, as [`TOLD`] says it.
    told: Vec<Vec<HostTensor>>,
}

impl Updater {
    /// The graph of a bundle that makes an update of a gradient, or of a batch, with the state whole in this process. It tells the results named before
    /// [`TOLD`] as well, of so many steps at a time.
    ///
    /// # Errors
    /// A bundle of an earlier version, whose graphs do not tell whether they made an update; what ONNX Runtime refuses.
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        graph: GraphName,
        computing: Computing,
        (results, waiting): (&[&str], NonZeroUsize),
    ) -> Result<Self> {
        let session = open_update(runtime, bundle, graph, computing)?;
        Ok(Self { stepper: stepper(session, &[results, &TOLD[..]].concat(), waiting)?, parted: None })
    }

    /// The update of this process's part of the vector; `reader` reads the whole of it.
    ///
    /// # Errors
    /// A bundle whose optimizer has state beside the moments; fewer numbers than processes.
    pub(super) fn parted(runtime: &Runtime, bundle: &Bundle, computing: Computing, parts: Parts, reader: &Session) -> Result<Self> {
        let manifest = bundle.manifest();
        let whole = [
            (
                manifest.allocation_steps.is_some(),
                "`zero_stage 1` with an adapter whose ranks are allocated",
                "they are compared with each other after every step",
            ),
            (
                manifest.constrained,
                "`zero_stage 1` with constrained rotations (`coft`)",
                "their norms are of whole tensors, which parts of the vector cut",
            ),
        ];
        if let Some((_, what, why)) = whole.into_iter().find(|(is_so, ..)| *is_so) {
            return Err(Error::unsupported(what, why).in_file(bundle.folder()).with_hint("leave it out"));
        }
        if parts.own().is_empty() {
            let expected = format!("{} at least, one for each process", parts.lengths().len());
            return Err(Error::mismatch("trainable numbers", expected, parts.count()).with_hint("leave `zero_stage 1` out"));
        }
        let session = open_update_as(runtime, bundle, &part_graph(parts.own().len())?, computing)?;
        let stepper = stepper(session, &[Output::Updated.name()], NonZeroUsize::MIN)?;
        let whole = DeviceTensor::for_input(reader, TRAINABLE)?;
        Ok(Self { stepper, parted: Some(Parted { parts, whole, told: vec![] }) })
    }

    /// The graph's session.
    pub(super) fn session(&self) -> &Session {
        self.stepper.session()
    }

    /// Gives an input the same value in every step to come.
    ///
    /// # Errors
    /// As [`Stepper::set`].
    pub(super) fn set(&mut self, feed: Feed<'_>) -> Result<()> {
        self.stepper.set(feed)
    }

    /// Which part of the gradient this process needs; none: all.
    pub(super) fn parts(&self) -> Option<&Parts> {
        self.parted.as_ref().map(|parted| &parted.parts)
    }

    /// Makes a step of the batch that is fed, with a graph that reads one.
    ///
    /// # Errors
    /// As [`Stepper::step`].
    pub(super) fn step_whole(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        self.stepper.step(feeds)
    }

    /// Makes a step of the gradient that the processes have summed, or their parts of it. `others` are the step's number and its learning rate.
    ///
    /// # Errors
    /// As [`Stepper::step`], and if a process is gone.
    pub(super) fn step(&mut self, ranks: &Ranks<'_>, gradient: &mut Stepper, others: [Feed<'_>; 2]) -> Result<()> {
        let [number, rate] = others;
        let Some(parted) = &mut self.parted else {
            return self.stepper.step(&[Feed::device(GRADIENT.input, gradient.state(GRADIENT.input)?), number, rate]);
        };
        let mut own = vec![];
        gradient.change(GRADIENT.input, &mut |values| {
            own.extend_from_slice(&values[parted.parts.own()]);
            Ok(())
        })?;
        let squares: f64 = own.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let norm = HostTensor::scalar(narrow(ranks.total(Ok(squares))?.sqrt()));
        let own = HostTensor::vector(own);
        let made = self.stepper.step(&[Feed::host(GRADIENT.input, &own), Feed::host(WHOLE_NORM, &norm), number, rate]);
        let made = made.and_then(|()| is_updated(&self.stepper.collect()?));
        let missing = ranks.total(made.map(|is_updated| if is_updated { 0.0 } else { 1.0 }))?;
        let is_updated = missing < 1.0;
        if is_updated {
            let own = self.stepper.read(TRAINABLE)?.into_f32()?;
            parted.whole.change(&mut |whole| ranks.join(&parted.parts, &own, Some(whole)))?;
        }
        parted.told.push(vec![norm, HostTensor::scalar(f32::from(is_updated))]);
        Ok(())
    }

    /// Whether what came of the steps has to be collected before the next one.
    pub(super) fn is_full(&self) -> bool {
        self.parted.as_ref().map_or_else(|| self.stepper.is_full(), |parted| !parted.told.is_empty())
    }

    /// What every step since the last call told, as [`TOLD`] names it.
    ///
    /// # Errors
    /// As [`Stepper::collect`].
    pub(super) fn collect(&mut self) -> Result<Vec<Vec<HostTensor>>> {
        match &mut self.parted {
            None => self.stepper.collect(),
            Some(parted) => Ok(std::mem::take(&mut parted.told)),
        }
    }

    /// Makes the state what it was before the last step, which made no update.
    pub(super) fn take_back(&mut self) {
        self.stepper.take_back();
    }

    /// The whole trainable vector, where it is.
    ///
    /// # Errors
    /// As [`Stepper::state`].
    pub(super) fn trainable(&self) -> Result<&DeviceTensor> {
        self.parted.as_ref().map_or_else(|| self.stepper.state(TRAINABLE), |parted| Ok(&parted.whole))
    }

    /// How many numbers a part of the whole state has.
    ///
    /// # Errors
    /// As [`Stepper::state`].
    pub(super) fn length(&self, part: &str) -> Result<usize> {
        let own = self.stepper.state(part)?.shape().iter().product();
        Ok(self.parts().map_or(own, Parts::count))
    }

    /// Overwrites a part of the whole state.
    ///
    /// # Errors
    /// As [`Stepper::write`].
    pub(super) fn write(&mut self, part: &str, values: Vec<f32>) -> Result<()> {
        let Some(parted) = &mut self.parted else { return self.stepper.write(part, &HostTensor::vector(values)) };
        if values.len() != parted.parts.count() {
            return Err(Error::mismatch(format!("numbers of {part}"), parted.parts.count(), values.len()));
        }
        self.stepper.write(part, &HostTensor::vector(values[parted.parts.own()].to_vec()))?;
        if part != TRAINABLE {
            return Ok(());
        }
        parted.whole.change(&mut |whole| {
            whole.copy_from_slice(&values);
            Ok(())
        })
    }

    /// A part of the state, whole in the process that leads. The others have theirs alone where it is parted.
    ///
    /// # Errors
    /// If the device refuses, or a process is gone.
    pub(super) fn read(&self, ranks: &Ranks<'_>, part: &str) -> Result<Vec<f32>> {
        let Some(parted) = &self.parted else { return self.stepper.read(part)?.into_f32() };
        if part == TRAINABLE {
            return parted.whole.to_host()?.into_f32();
        }
        let own = self.stepper.read(part)?.into_f32()?;
        if !ranks.is_lead() {
            return ranks.join(&parted.parts, &own, None).map(|()| own);
        }
        let mut whole = vec![0.0; parted.parts.count()];
        ranks.join(&parted.parts, &own, Some(&mut whole))?;
        Ok(whole)
    }
}

fn is_updated(told: &[Vec<HostTensor>]) -> Result<bool> {
    let told = told.last().and_then(|row| row.last()).ok_or_else(|| Error::not_found("output", Output::Updated.name()))?;
    Ok(told.item()? > 0.0)
}

/// Refuses a state after a step with numbers that are not finite, and one that is another in another process.
///
/// # Errors
/// The part that has such numbers; the first process that differs.
pub(super) fn check(ranks: &Ranks<'_>, step: u64, state: &IndexMap<String, Vec<f32>>, shared: &[&str]) -> Result<()> {
    let is_bad = |(_, values): &(&String, &Vec<f32>)| values.iter().any(|value| !value.is_finite());
    ranks.agree(state.iter().find(is_bad).map_or(Ok(()), |(part, _)| {
        let what = format!("the state after step {step} is not saved: {part} has numbers that are not finite");
        Err(Error::from(ErrorKind::Diverged(what)).with_hint(SMALLER))
    }))?;
    let mut mark = xxhash_rust::xxh3::Xxh3Default::new();
    shared.iter().filter_map(|part| state.get(*part)).for_each(|values| mark.update(bytemuck::cast_slice(values)));
    ranks.same("the state after a step", &format!("{:016x} after step {step}", mark.digest()))
}
