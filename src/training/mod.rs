//! Training: steps over batches until the end, with metrics, evaluations and checkpoints on the way.
//!
//! ```text
//! data ─batches→ engine ⇄ state        every step: a line in metrics.jsonl
//!                  │                    every --eval-steps: evaluation.onnx over the evaluation data
//!                  └─ state ─→ runs/NAME/checkpoints/step-N/ ─at the end→ the bundle's adapter
//! ```
//! A state is saved when its checkpoint's folder takes its name; the bundle's adapter follows from the last checkpoint of a run that ended well.
//! What a run looks like to people is not decided here: every happening is an [`Event`].

mod ahead;
mod batch_size;
mod best;
mod cached;
pub mod check;
pub mod checkpoint;
mod ending;
mod engine;
mod events;
mod fitting;
mod folder;
mod graphs;
mod journal;
mod loss_scale;
mod material;
pub mod metrics;
pub mod need;
mod options;
pub mod report;
mod run;
pub mod runs;
pub mod schedule;
mod source;
pub mod speed;
mod start;
pub mod taught;
mod trainer;
mod updater;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use batch_size::{batch_size, batch_size_to_train};
pub use best::Goal;
pub use ending::tell_again;
pub use folder::{as_tuned, tuned_for};
pub use graphs::{Computing, open as open_graph, open_loss_of_all};
pub use loss_scale::LossScale;
pub use options::{DataOptions, EvalData, Length, MicroBatch, Optimizer, Options, Saving, Start, Warmup, Watching};
pub use source::{Source, tokenizer_near};
pub use trainer::{Step, Trainer, TrainerOptions};

use crate::error::{Error, Result};
use crate::evaluate::Evaluation;
use crate::export::lock::Lock;
use crate::export::pending;
use crate::ort::Runtime;
use crate::parallel::{Alone, Ranks};
use metrics::StepRecord;
use runs::Runs;

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The data is read and the graphs are open; what is written from now on is the run's.
    Read,
    /// Training begins.
    Started(&'a Plan),
    /// An optimizer step was taken.
    Step(&'a StepRecord),
    /// The loss on the evaluation data was measured after a step.
    Evaluated {
        /// The step.
        step: u64,
        /// What was found.
        evaluation: &'a Evaluation,
        /// Whether it is the best so far, where something follows from that.
        is_best: bool,
    },
    /// A checkpoint was written.
    Saved(&'a PathBuf),
}

/// What a run is going to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Optimizer steps taken before, by the run that is continued.
    pub done: u64,
    /// Optimizer steps at the end.
    pub steps: u64,
    /// Optimizer steps in an epoch.
    pub steps_per_epoch: usize,
    /// Trainable parameters.
    pub trainable: usize,
    /// The training examples that were read.
    pub data: crate::data::Summary,
    /// Rows a step, at most, of all processes.
    pub rows_per_step: usize,
    /// Processes that compute.
    pub processes: usize,
    /// The learning rate at its highest.
    pub learning_rate: f64,
    /// Rows that are measured on.
    pub eval_rows: Option<usize>,
    /// Optimizer steps between evaluations; none: only at the end.
    pub eval_steps: Option<u64>,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The run's name.
    pub run: String,
    /// Whether there was nothing left to do: the run had taken its last step before.
    pub was_finished: bool,
    /// The last step's number.
    pub steps: u64,
    /// Mean loss of the first tenth of the steps of this run.
    pub first_loss: Option<f32>,
    /// Mean loss of the last tenth of the steps of this run.
    pub loss: Option<f32>,
    /// Tokens read by this run.
    pub tokens: u64,
    /// Wall time of this run, reading the data and opening the graphs not counted.
    pub time: Duration,
    /// What was measured of the adapter that the bundle has now.
    pub evaluation: Option<Evaluation>,
    /// The step whose adapter the bundle has now.
    pub kept: u64,
    /// The metric that decided about it, and its value there.
    pub best: Option<(String, f64)>,
    /// Why the run ended before its last step, if it did.
    pub stopped_early: bool,
    /// The file of the trained adapter.
    pub adapter: PathBuf,
    /// Some of the rows that were measured on, if any were to be named.
    pub some_rows: Option<SomeRows>,
}

/// Some rows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SomeRows {
    /// The file.
    pub file: PathBuf,
    /// Their numbers in it, from 1.
    pub numbers: Vec<usize>,
}

/// Trains the adapter of a bundle, in a run of its own, and puts what came out into the bundle if the run ends well. No other process may change the
/// bundle meanwhile.
///
/// When `stop` becomes true the run ends after the step it is in, with a checkpoint.
///
/// # Errors
/// Data, options or graphs that do not go together; [`Diverged`](crate::ErrorKind::Diverged) if loss or gradient are no numbers any more, with the
/// step and the rows, after the last good state was saved; [`Interrupted`](crate::ErrorKind::Interrupted) if `stop` was set.
pub fn train(runtime: &Runtime, options: &Options, stop: &AtomicBool, report: &mut dyn FnMut(Event<'_>)) -> Result<Summary> {
    let alone = train_among(runtime, options, &Ranks::of(&Alone, stop), report)?;
    alone.ok_or_else(|| Error::invalid("a process by itself did not lead"))
}

/// The same by several processes, each with the same options: the batches of a step are parted among them and their gradients added up, so that the result is that
/// of one process with so many times the `accumulation` (of a loss that compares all rows and runs on parts of a batch: with so many times the batch size).
/// The process that leads alone writes and has a summary.
///
/// # Errors
/// As [`train`]; if a process is gone. Of an error that all processes know of, those that do not lead have [`Elsewhere`](crate::ErrorKind::Elsewhere);
/// whether they do is what [`are_settled`](Ranks::are_settled) tells.
pub fn train_among(runtime: &Runtime, options: &Options, ranks: &Ranks<'_>, report: &mut dyn FnMut(Event<'_>)) -> Result<Option<Summary>> {
    if ranks.are_several() && options.data.file == Path::new("-") {
        let error = Error::unsupported("rows of standard input in several processes", "each of them reads the data");
        return Err(ranks.alike(error.with_hint("write them to a file that all processes see")));
    }
    let _lock = ranks.lead(|| Lock::take(&options.bundle, "peft-onnx train"))?;
    let is_completed = ranks.lead(|| {
        Runs::of(&options.bundle).tidy();
        pending::complete(&options.bundle)
    })?;
    let material = ranks.agree(material::Material::read(runtime, options, ranks))?;
    ranks.lead(|| if is_completed == Some(true) { material.bundle.renew_inference() } else { Ok(()) })?;
    let (is_lead, processes) = (ranks.is_lead(), ranks.on_this_host());
    let prepared = std::thread::scope(|scope| {
        // While the graphs are opened.
        if is_lead {
            scope.spawn(|| material.warn_of_memory(options, processes));
        }
        run::Run::prepare(runtime, options, &material, ranks, report)
    });
    match prepared? {
        run::Prepared::Ready(run) => run.go(),
        run::Prepared::Finished(summary) => Ok(summary.map(|summary| *summary)),
    }
}

#[cfg(test)]
mod tests;
