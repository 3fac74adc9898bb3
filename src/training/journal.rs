//! What a run writes: its metrics, checkpoints and report. Of several processes the one that leads has it, and the others write nothing.

use std::path::{Path, PathBuf};

use super::ending::{describe, environment, finished, names_of, report};
use super::events::Events;
use super::material::Material;
use super::{Options, Summary};
use crate::contract::Input;
use crate::error::Result;
use crate::evaluate::{EvalRecord, Evaluation};
use crate::export::adapter_file::{Frame, Learnt};
use crate::files::inside;
use crate::ort::Runtime;
use crate::training::checkpoint::{Checkpoint, Keep};
use crate::training::metrics::{self, Metrics, StepRecord};
use crate::training::runs::{self, Ended};

/// What a run writes.
pub(super) struct Journal<'a> {
    material: &'a Material,
    /// The run's folder.
    pub run: runs::Run,
    frame: Frame,
    metrics: Metrics,
    events: Option<Events>,
    /// What it computes with, for people.
    environment: Vec<(&'static str, String)>,
}

impl<'a> Journal<'a> {
    /// Begins the run's folder, or goes on in it after the step that is done.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn open(runtime: &Runtime, options: &Options, material: &'a Material, done: u64) -> Result<Self> {
        let manifest = material.bundle.manifest();
        material.keep_names(&options.bundle)?;
        let frame = Frame::read(&material.beginning.adapter, manifest)?;
        let (run, metrics) = material.beginning.open(options)?;
        let events = options.tensorboard.then(|| Events::create(&run.folder, done)).transpose()?;
        Ok(Self { material, run, frame, metrics, events, environment: environment(runtime, manifest, options.device) })
    }

    /// Writes down a step.
    ///
    /// # Errors
    /// If it cannot be written; as of all that follow.
    pub(super) fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.metrics.write(record)?;
        self.events.as_mut().map_or(Ok(()), |events| events.step(record))
    }

    /// Writes down an evaluation.
    pub(super) fn evaluation(&mut self, record: &EvalRecord) -> Result<()> {
        self.metrics.write(record)?;
        self.events.as_mut().map_or(Ok(()), |events| events.evaluation(record))
    }

    /// Writes a checkpoint, and gives its folder.
    pub(super) fn save(&mut self, checkpoint: &Checkpoint, keep: Keep) -> Result<PathBuf> {
        let (frame, manifest) = (&self.frame, self.material.bundle.manifest());
        let part = |input: Input| checkpoint.state.get(input.name()).map(Vec::as_slice);
        let learnt = Learnt { vector: part(Input::Trainable).unwrap_or_default(), masked: part(Input::MaskedRanks) };
        let adapter = |folder: &Path| frame.write(folder, manifest, learnt);
        self.metrics.sync()?;
        self.run.checkpoints()?.write(checkpoint, keep, &adapter)
    }

    /// Removes the checkpoints that are not kept any more.
    ///
    /// # Errors
    /// If there is no folder of checkpoints.
    pub(super) fn forget_all_but(&self, keep: Keep) -> Result<()> {
        self.run.checkpoints().map(|checkpoints| checkpoints.forget_all_but(keep))
    }

    /// Keeps how the run ended. That is said nowhere else but in a list of runs: it is no reason to fail.
    pub(super) fn end(&mut self, ended: Ended, evaluation: Option<&Evaluation>) {
        if let Err(error) = self.run.end(ended) {
            tracing::warn!("the end of run {} could not be recorded: {error}", self.run.name);
        }
        self.report(evaluation);
    }

    /// Writes the page of the run.
    fn report(&self, evaluation: Option<&Evaluation>) {
        let Material { bundle, dataset, .. } = self.material;
        report(&self.run, bundle.manifest(), &self.environment, &names_of(dataset, bundle.manifest()), evaluation);
    }

    /// Writes the model card and the page of a run that ended well.
    pub(super) fn tell(&self, evaluation: Option<&Evaluation>) {
        let results = evaluation.map(Evaluation::all).unwrap_or_default();
        let results: Vec<(String, f64)> = results.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        describe(self.material.bundle.folder(), &results);
        self.report(evaluation);
    }
}

/// What is left of a run whose steps were all taken before. A process that ended behind its last checkpoint did not come to it: checkpoints that are not
/// kept any more are still there, the bundle's adapter is an older one, and the page and the model card do not tell what was measured.
pub(super) fn complete(
    runtime: &Runtime,
    options: &Options,
    material: &Material,
    run: &mut runs::Run,
    last: u64,
    keep: Keep,
) -> Result<Summary> {
    let Material { bundle, dataset, .. } = material;
    let was_finished = run.record.ended == Some(Ended::Finished);
    if !was_finished {
        run.checkpoints()?.forget_all_but(keep);
    }
    let summary = finished(bundle, run, last, &options.watching)?;
    if !was_finished || inside::facts(&run.report())?.is_none() {
        let measured = metrics::lines(&run.metrics())?.into_iter().rfind(|line| line.split.is_some() && line.step == summary.kept);
        describe(bundle.folder(), &measured.map(|line| line.values()).unwrap_or_default());
        let environment = environment(runtime, bundle.manifest(), options.device);
        report(run, bundle.manifest(), &environment, &names_of(dataset, bundle.manifest()), None);
    }
    Ok(summary)
}
