//! Training in steps of the caller's own: over batches in memory, with nothing written to the disk.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use super::Source;
use super::engine::{Engine, Opening};
use super::options::Optimizer;
use crate::contract::Input;
use crate::data::{Batch, Batches, Collation, Dataset, Order};
use crate::error::{Error, Result};
use crate::evaluate::reference::{Referee, Reference};
use crate::evaluate::teacher::Teacher;
use crate::export::Bundle;
use crate::export::adapter_file::{Frame, Learnt};
use crate::ort::{Device, Options as RuntimeOptions, Runtime};
use crate::parallel::{Alone, Ranks, Share};
use crate::peft::AdapterFiles;

/// How a [`Trainer`] takes its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// AdamW's numbers; the learning rate is that of every step, until it is [set](Trainer::set_learning_rate).
    pub optimizer: Optimizer,
    /// Decides dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
    /// Threads; none: as many as this process may use.
    pub threads: Option<NonZeroUsize>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self { optimizer: Optimizer::default(), seed: 42, device: Device::Cpu, threads: None }
    }
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// The loss before the update, mean over the labels that count.
    pub loss: f32,
    /// The norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Whether the update was made: a gradient or a state that is not finite changes nothing.
    pub is_updated: bool,
}

/// A bundle being trained, a batch at a time.
pub struct Trainer {
    bundle: Bundle,
    engine: Engine,
    reference: Option<Reference>,
    teacher: Option<Teacher>,
    frame: Frame,
    adapter: AdapterFiles,
    learning_rate: f64,
    taken: u64,
}

impl Trainer {
    /// Opens the graphs of a bundle on a device, with the adapter that it has.
    ///
    /// # Errors
    /// Options that make no sense; an ONNX Runtime that is not found or refuses a graph.
    pub fn new(bundle: &Bundle, options: &TrainerOptions) -> Result<Self> {
        options.optimizer.check()?;
        let runtime = Runtime::start(&RuntimeOptions { threads: options.threads, ..RuntimeOptions::default() })?;
        let one = NonZeroUsize::MIN;
        let opening = Opening { computing: options.device.into(), accumulation: one, waiting: one, share: Share::ALL, parts_state: false };
        let mut engine = Engine::open(runtime, bundle, &opening, NonZeroUsize::MIN)?;
        engine.configure(&options.optimizer, options.seed)?;
        engine.write(Input::Trainable.name(), bundle.trainable()?)?;
        let adapter = bundle.files()?;
        Ok(Self {
            reference: Reference::of(runtime, bundle, Referee::default(), options.device)?,
            teacher: Teacher::of(runtime, bundle, options.device, &Collation::default())?,
            frame: Frame::of(&adapter)?,
            bundle: bundle.clone(),
            learning_rate: options.optimizer.learning_rate,
            engine,
            adapter,
            taken: 0,
        })
    }

    /// Batches of rows for [`step`](Self::step), epoch after epoch without end.
    ///
    /// # Errors
    /// As [`Batches::new`].
    pub fn batches<'d>(&self, source: &Source, dataset: &'d Dataset, batch_size: usize, order: Order) -> Result<Batches<'d>> {
        self.engine.batches(dataset, batch_size, order, source.collation())
    }

    /// Takes an optimizer step.
    ///
    /// # Errors
    /// If ONNX Runtime refuses the batch.
    pub fn step(&mut self, batch: &Batch) -> Result<Step> {
        let mut batch = batch.clone();
        if let Some(reference) = &mut self.reference {
            reference.complete(&mut batch)?;
        }
        if let Some(teacher) = &mut self.teacher {
            teacher.complete(&mut batch)?;
        }
        let number = self.taken + 1;
        let stop = AtomicBool::new(false);
        self.engine.step(&Ranks::of(&Alone, &stop), Ok(std::slice::from_ref(&batch)), number, self.learning_rate)?;
        let outcome = self.engine.collect()?.pop().ok_or_else(|| Error::invalid("the step told nothing"))?;
        self.taken = number;
        Ok(Step { number, loss: outcome.loss, grad_norm: outcome.grad_norm, is_updated: outcome.is_finite() })
    }

    /// The learning rate of the steps from now on.
    pub fn set_learning_rate(&mut self, rate: f64) {
        self.learning_rate = rate;
    }

    /// The adapter as it is after the last step.
    ///
    /// # Errors
    /// If the device refuses to give it.
    pub fn adapter(&self) -> Result<AdapterFiles> {
        let stop = AtomicBool::new(false);
        let alone = Ranks::of(&Alone, &stop);
        let (vector, masked) = (self.engine.read(&alone, Input::Trainable.name())?, self.engine.masked(&alone)?);
        self.frame.filled(&self.adapter, self.bundle.manifest(), Learnt { vector: &vector, masked: masked.as_deref() })
    }

    /// The bundle with the adapter as it is after the last step: merged, run or trained on.
    ///
    /// # Errors
    /// As [`adapter`](Self::adapter).
    pub fn bundle(&self) -> Result<Bundle> {
        Ok(self.bundle.clone().with_files(self.adapter()?))
    }
}
