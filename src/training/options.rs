//! What a training run is asked to do.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::best::Goal;
use crate::data::{ColumnMap, HeldOut, Order, Packing, Sampler};
use crate::error::{Error, Result};
use crate::evaluate::reference::Referee;
use crate::media::Augmentation;
use crate::num;
use crate::ort::Device;
use crate::train::precision::Precision;
use crate::training::graphs::Computing;
use crate::training::schedule::{Decay, Schedule};

/// A training run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Where its base went, if it moved.
    pub base: Option<PathBuf>,
    /// What is learnt from.
    pub data: DataOptions,
    /// What preferences are compared with.
    pub reference: Referee,
    /// Batches whose gradients are added up for one optimizer step.
    pub accumulation: NonZeroUsize,
    /// Rows that the model runs on at a time.
    pub micro_batch: MicroBatch,
    /// When it ends.
    pub length: Length,
    /// AdamW's numbers.
    pub optimizer: Optimizer,
    /// How the learning rate goes on after the warm-up.
    pub decay: Decay,
    /// How the learning rate rises.
    pub warmup: Warmup,
    /// Decides dropout.
    pub seed: u64,
    /// What evaluations decide.
    pub watching: Watching,
    /// When checkpoints are written.
    pub saving: Saving,
    /// Where to start.
    pub start: Start,
    /// The run's name: of the one to go on with, or of a new one. None: the newest, or the next number.
    pub run: Option<String>,
    /// The options in the words of who asked, to keep beside the run.
    pub config: String,
    /// Whether TensorBoard's files of events are written.
    pub tensorboard: bool,
    /// Where to compute.
    pub device: Device,
    /// What to compute in.
    pub precision: Precision,
    /// Whether products have copies of their weights in the order in which they read them: faster, and more memory.
    pub packs_weights: bool,
    /// Whether processes part the optimizer's moments among them (`ZeRO` stage 1) rather than each having them all.
    pub parts_state: bool,
    /// Steps whose loss may wait on the device until it is fetched: every time, the device stands still. News comes after half a second anyway.
    pub waiting: NonZeroUsize,
}

/// Rows that the model runs on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// The whole batch.
    Whole,
    /// So many.
    Rows(NonZeroUsize),
    /// As many as there is memory for.
    Fitting,
}

/// What is learnt from, and how it is read.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The training examples.
    pub file: PathBuf,
    /// The eval examples.
    pub eval: EvalData,
    /// What columns are renamed to.
    pub columns: ColumnMap,
    /// A tokenizer, or its folder; none: looked for beside the model.
    pub tokenizer: Option<PathBuf>,
    /// Where rows are cut, in tokens.
    pub max_length: Option<NonZeroUsize>,
    /// Tokens that windows of a long text share; none: texts are cut.
    pub stride: Option<usize>,
    /// Which rows may be in one batch.
    pub sampler: Sampler,
    /// Random augmentation of pictures.
    pub augmentation: Augmentation,
    /// How short rows are put together.
    pub packing: Packing,
    /// The order of rows.
    pub order: Order,
    /// Batch size, in rows.
    pub batch_size: NonZeroUsize,
}

/// Where the rows come from that are measured on and not learnt from.
#[derive(Clone, Debug, Default)]
pub enum EvalData {
    /// There are none.
    #[default]
    Nothing,
    /// A file of their own.
    File(PathBuf),
    /// Some of the rows of the training data.
    HeldOut(HeldOut),
}

/// When is measured, and what follows from it.
#[derive(Clone, Debug, Default)]
pub struct Watching {
    /// Optimizer steps between evaluations; none: after each epoch where something follows from them, else only at the end.
    pub every: Option<NonZeroU64>,
    /// The metric that tells which step is best.
    pub goal: Goal,
    /// Whether the bundle gets the adapter of the best step, not of the last one.
    pub load_best: bool,
    /// Evaluations without a better one after which the run ends; none: it never ends early.
    pub patience: Option<NonZeroUsize>,
    /// Rows of the evaluation data that are named in the end, for people to look at their answers.
    pub samples: usize,
}

impl Watching {
    /// Whether anything follows from an evaluation.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.load_best || self.patience.is_some()
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Length {
    /// After so many optimizer steps.
    Steps(u64),
    /// After all rows were read so often.
    Epochs(f64),
}

/// AdamW's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// The learning rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Decoupled weight decay of every trainable parameter.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Gradients of a larger norm are scaled down to it; 0 turns that off.
    pub max_grad_norm: f64,
}

/// Three passes over the data, without a bundle or data, which the caller names.
impl Default for Options {
    fn default() -> Self {
        Self {
            bundle: PathBuf::new(),
            base: None,
            data: DataOptions::default(),
            reference: Referee::default(),
            accumulation: NonZeroUsize::MIN,
            micro_batch: MicroBatch::Whole,
            length: Length::Epochs(3.0),
            optimizer: Optimizer::default(),
            decay: Decay::default(),
            warmup: Warmup::Share(0.03),
            seed: 42,
            watching: Watching::default(),
            saving: Saving::default(),
            start: Start::Untrained,
            run: None,
            config: String::new(),
            tensorboard: false,
            device: Device::Cpu,
            precision: Precision::default(),
            packs_weights: false,
            parts_state: false,
            waiting: NonZeroUsize::MIN,
        }
    }
}

/// Batches of 8 rows in an order of their own in every epoch, of a file that the caller names.
impl Default for DataOptions {
    fn default() -> Self {
        Self {
            file: PathBuf::new(),
            eval: EvalData::Nothing,
            columns: ColumnMap::default(),
            tokenizer: None,
            max_length: None,
            packing: Packing::Off,
            order: Order::Shuffled { seed: 42 },
            batch_size: super::batch_size::BATCH_SIZE,
            sampler: Sampler::default(),
            augmentation: Augmentation::default(),
            stride: None,
        }
    }
}

/// The command line's defaults: PyTorch's AdamW without decay, gradients up to a norm of 1.
impl Default for Optimizer {
    fn default() -> Self {
        Self { learning_rate: 2e-4, weight_decay: 0.0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 1.0 }
    }
}

/// How long the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// So many optimizer steps.
    Steps(u64),
    /// This share of all steps, rounded down.
    Share(f64),
}

/// When checkpoints are written, and how many stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saving {
    /// Optimizer steps between checkpoints.
    pub every: Option<NonZeroU64>,
    /// How many of the newest stay; none: all.
    pub keep: Option<NonZeroUsize>,
}

/// Where a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At step 1 of a bundle that was not trained; one that was is refused.
    Untrained,
    /// At step 1, with a new optimizer, from the adapter as it is.
    Continued,
    /// At step 1, from the adapter as `inject` wrote it.
    Restarted,
    /// Where the newest run, or the one that is named, was stopped.
    Resumed,
    /// After this checkpoint: in its run if that has no newer one, else in a new run.
    ResumedFrom(PathBuf),
}

impl Options {
    /// Where graphs are computed, and in what.
    pub(super) fn computing(&self) -> Computing {
        Computing { device: self.device, precision: self.precision, packs_weights: self.packs_weights }
    }

    /// The learning rates of a run over data with so many optimizer steps an epoch.
    ///
    /// # Errors
    /// If there would be no step.
    pub(super) fn schedule(&self, steps_per_epoch: usize) -> Result<Schedule> {
        Ok(self.schedule_of(self.length.steps(steps_per_epoch)?))
    }

    /// The same of a run that took its steps so far with other numbers of rows: it ends where its epochs do. `left` is how many steps are left of the
    /// epoch that it is in.
    ///
    /// # Errors
    /// If there would be no step.
    pub(super) fn schedule_from(&self, steps_per_epoch: usize, done: u64, left: u64, epoch: u64) -> Result<Schedule> {
        let all = self.length.steps(steps_per_epoch)?;
        if matches!(self.length, Length::Steps(_)) {
            return Ok(self.schedule_of(all));
        }
        let behind_this_epoch = (epoch + 1).saturating_mul(num::wide(steps_per_epoch));
        Ok(self.schedule_of(done + (left + all).saturating_sub(behind_this_epoch)))
    }

    fn schedule_of(&self, total_steps: u64) -> Schedule {
        let warmup_steps = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => whole(share * num::float_of(total_steps)),
        };
        if warmup_steps > total_steps {
            tracing::warn!(
                "the warm-up of {warmup_steps} steps does not end within the {total_steps} steps of the run: its learning rate is never reached"
            );
        }
        Schedule { decay: self.decay, peak: self.optimizer.learning_rate, warmup_steps, total_steps }
    }
}

impl Length {
    fn steps(self, steps_per_epoch: usize) -> Result<u64> {
        match self {
            Self::Steps(steps) => Ok(steps),
            Self::Epochs(epochs) if epochs.is_finite() && epochs > 0.0 => {
                let steps = epochs * num::float(steps_per_epoch);
                Ok(whole(steps.ceil()).max(1))
            }
            Self::Epochs(epochs) => Err(Error::setting("epochs", "a number above 0", epochs)),
        }
    }
}

impl Optimizer {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// [`Setting`](crate::ErrorKind::Setting).
    pub(super) fn check(&self) -> Result<()> {
        type Check = fn(f64) -> bool;
        let rows: [(&'static str, f64, &str, Check); 6] = [
            ("learning_rate", self.learning_rate, "a number from 0", |x| x >= 0.0),
            ("weight_decay", self.weight_decay, "a number from 0", |x| x >= 0.0),
            ("adam_beta1", self.beta1, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x)),
            ("adam_beta2", self.beta2, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x)),
            ("adam_epsilon", self.epsilon, "a number above 0", |x| x > 0.0),
            ("max_grad_norm", self.max_grad_norm, "a number from 0", |x| x >= 0.0),
        ];
        if let Some((option, value, expected, _)) = rows.into_iter().find(|(_, value, _, is_fine)| !(value.is_finite() && is_fine(*value)))
        {
            return Err(Error::setting(option, expected, value));
        }
        for (option, value, ..) in rows {
            let wrong = |expected: &str, found| Error::setting(option, expected, found);
            if option.starts_with("adam_beta") { num::share_in_float32(value, wrong)? } else { num::in_float32(value, wrong)? }
        }
        if self.learning_rate == 0.0 {
            tracing::warn!("the learning rate is 0: nothing is learnt");
        }
        Ok(())
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weight_decay, beta1, beta2, epsilon, max_grad_norm, .. } = self;
        write!(f, "weight decay {weight_decay}, betas {beta1} and {beta2}, epsilon {epsilon}, gradients up to a norm of {max_grad_norm}")
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of steps: not negative, far below 2^53"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_as_many_steps_as_its_epochs() {
        for (length, steps_per_epoch, steps) in
            [(Length::Steps(7), 100, 7), (Length::Epochs(3.0), 10, 30), (Length::Epochs(0.5), 5, 3), (Length::Epochs(0.01), 5, 1)]
        {
            assert_eq!(length.steps(steps_per_epoch).ok(), Some(steps), "{length:?}");
        }
        assert!(Length::Epochs(0.0).steps(3).is_err());
        assert!(Length::Epochs(f64::NAN).steps(3).is_err());
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_by_their_option() {
        let good = Optimizer { learning_rate: 1e-3, weight_decay: 0.0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 1.0 };
        assert!(good.check().is_ok());
        let error = Optimizer { beta2: 1.0, ..good }.check().unwrap_err();
        assert_eq!(error.to_string(), "adam_beta2: expected a number from 0 to below 1, found 1");
        assert!(Optimizer { learning_rate: f64::INFINITY, ..good }.check().is_err());
        for lost in [
            Optimizer { epsilon: 1e-300, ..good },
            Optimizer { learning_rate: 1e39, ..good },
            Optimizer { learning_rate: 1e-60, ..good },
            Optimizer { weight_decay: 1e308, ..good },
            Optimizer { max_grad_norm: 1e-50, ..good },
            Optimizer { beta1: 0.999_999_999_99, ..good },
            Optimizer { beta2: 0.999_999_999_99, ..good },
        ] {
            assert!(lost.check().is_err_and(|error| error.to_string().contains("which rounds to")), "{lost}");
        }
        assert!(Optimizer { max_grad_norm: 0.0, weight_decay: 1e-30, epsilon: 1e-40, ..good }.check().is_ok());
    }
}
