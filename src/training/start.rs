//! Where a run starts: found before data are read and graphs are opened, so that who must choose is asked at once.

use std::path::{Path, PathBuf};

use super::engine::Engine;
use super::options::{Options, Start};
use crate::contract::Input;
use crate::data::Cursor;
use crate::error::{Error, Result};
use crate::export::INITIAL;
use crate::export::{Manifest, adapter_file, pending};
use crate::files::inside;
use crate::training::checkpoint::{Checkpoint, Conditions};
use crate::training::metrics::{Metrics, Told};
use crate::training::runs::{Ended, Run, Runs, StartedFrom};

/// Where a run starts.
pub(super) struct Beginning {
    /// The folder with the adapter's files that the run's are made after.
    pub adapter: PathBuf,
    /// The state, unless it is the adapter with a new optimizer.
    pub checkpoint: Option<Checkpoint>,
    kind: Kind,
}

enum Kind {
    /// A new run.
    New(StartedFrom),
    /// This run goes on.
    GoesOn(Run),
    /// A new run goes on from a checkpoint, of the run if there is one.
    Branch(Option<Run>),
}

const CHOICES: &str = "`resume` continues the newest run, bit for bit; `continue` begins a new run from the trained adapter, with a new optimizer; \
                       `restart` begins one from the untrained adapter, as `inject` wrote it";

impl Beginning {
    /// Finds where a run starts. Whoever calls this holds the bundle's lock.
    pub(super) fn find(options: &Options, manifest: &Manifest) -> Result<Self> {
        let (bundle, runs) = (&options.bundle, Runs::of(&options.bundle));
        if let (Start::Untrained | Start::Continued | Start::Restarted | Start::ResumedFrom(_), Some(name)) = (&options.start, &options.run)
        {
            runs.check_new(name)?;
        }
        let newest = runs.newest()?;
        match &options.start {
            Start::Untrained => {
                untrained(bundle, manifest, newest.as_ref())?;
                let is_initial = inside::path(bundle, &[INITIAL])?.is_dir();
                Ok(Self::new(if is_initial { StartedFrom::Initial } else { StartedFrom::Adapter }, bundle.clone()))
            }
            Start::Continued => {
                if let Some(run) = &newest
                    && let Some(step) = saved(run)?
                    && run.record.ended != Some(crate::training::runs::Ended::Finished)
                {
                    tracing::warn!(
                        "run {} did not finish: the adapter lacks what it learnt until step {step} (`resume` continues it)",
                        run.name
                    );
                }
                Ok(Self::new(StartedFrom::Adapter, pending::adapter_folder(bundle)))
            }
            Start::Restarted => {
                let initial = inside::path(bundle, &[INITIAL])?;
                if !initial.is_dir() {
                    return Err(Error::not_found("folder", INITIAL)
                        .in_file(bundle)
                        .with_hint("the bundle does not have the adapter that training began with: inject again for a new start"));
                }
                Ok(Self::new(StartedFrom::Initial, initial))
            }
            Start::Resumed => Self::resumed(bundle, options.run.as_deref(), &runs),
            Start::ResumedFrom(folder) => Self::resumed_from(folder, options.run.is_some(), &runs),
        }
    }

    fn new(from: StartedFrom, adapter: PathBuf) -> Self {
        Self { adapter, checkpoint: None, kind: Kind::New(from) }
    }

    fn resumed(bundle: &Path, name: Option<&str>, runs: &Runs) -> Result<Self> {
        let run = match name {
            Some(name) => Some(runs.named(name)?),
            None => runs.newest()?,
        };
        let Some(run) = run else {
            let error = Error::invalid("there is no run to go on with").in_file(bundle);
            return Err(error.with_hint("leave out `resume` to begin one at step 1"));
        };
        let Some((folder, checkpoint)) = run.checkpoints()?.newest()? else {
            let again = match run.record.from {
                StartedFrom::Initial => "without `resume`, or with `restart` if the bundle was trained before",
                StartedFrom::Adapter => "with `continue` instead of `resume`",
                StartedFrom::Checkpoint(_) => "with `resume PATH`, the checkpoint that it started from",
            };
            let error = Error::invalid(format!("run {} saved nothing to go on from", run.name)).in_file(&run.folder);
            return Err(error.with_hint(format!("begin it again, {again}")));
        };
        Ok(Self { adapter: folder, checkpoint: Some(checkpoint), kind: Kind::GoesOn(run) })
    }

    fn resumed_from(folder: &Path, is_new: bool, runs: &Runs) -> Result<Self> {
        let checkpoint = Checkpoint::read(folder)?;
        let run = runs.with_checkpoint(folder)?;
        let newest = run.as_ref().map(saved).transpose()?.flatten();
        let is_newest = newest == Some(checkpoint.record.step) && !is_new;
        let kind = match run {
            Some(run) if is_newest => Kind::GoesOn(run),
            run => Kind::Branch(run),
        };
        Ok(Self { adapter: folder.to_owned(), checkpoint: Some(checkpoint), kind })
    }

    /// The run that goes on, if none begins.
    pub(super) fn run_that_goes_on(&self) -> Option<&Run> {
        match &self.kind {
            Kind::GoesOn(run) => Some(run),
            Kind::New(_) | Kind::Branch(_) => None,
        }
    }

    /// What was measured until the step of the checkpoint, in the run that goes on or that the new one branches off.
    pub(super) fn evaluations(&self, metric: &str, step: u64) -> Result<Vec<(u64, f64)>> {
        let run = match &self.kind {
            Kind::GoesOn(run) | Kind::Branch(Some(run)) => run,
            Kind::New(_) | Kind::Branch(None) => return Ok(vec![]),
        };
        Ok(Told::evaluations(&run.metrics(), metric)?.into_iter().filter(|(at, _)| *at <= step).collect())
    }

    /// Whether a run that goes on has not been measured after its last step: a signal during the step does not wait for it.
    ///
    /// # Errors
    /// As [`evaluations`](Self::evaluations).
    pub(super) fn is_unmeasured(&self, metric: &str, last: u64) -> Result<bool> {
        let goes_on = self.run_that_goes_on().is_some_and(|run| run.record.ended != Some(Ended::Finished));
        Ok(goes_on && !self.evaluations(metric, last)?.iter().any(|(step, _)| *step == last))
    }

    /// Says if the run that is gone on from was optimized in another way.
    pub(super) fn compare(&self, optimization: &str) {
        if let Some(Checkpoint { record, .. }) = &self.checkpoint
            && record.optimization != optimization
        {
            tracing::warn!("the checkpoint's run had {}; this one continues with {optimization}", record.optimization);
        }
    }

    /// Opens the run's folder and its metrics; the bundle's links lead to it from now on.
    pub(super) fn open(&self, options: &Options) -> Result<(Run, Metrics)> {
        let step = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.record.step);
        let begin = |from| Runs::of(&options.bundle).begin(options.run.as_deref(), from);
        let mut run = match &self.kind {
            Kind::New(from) => begin(from.clone())?,
            Kind::GoesOn(run) => run.clone(),
            Kind::Branch(_) => begin(StartedFrom::Checkpoint(step))?,
        };
        run.begin(&options.watching.goal)?;
        run.keep_config(&options.config)?;
        let path = run.metrics();
        let metrics = match &self.kind {
            Kind::New(_) => Metrics::create(&path)?,
            Kind::Branch(Some(other)) => Metrics::branch(&other.metrics(), &path, step)?,
            Kind::GoesOn(_) | Kind::Branch(None) => Metrics::resume(&path, step)?,
        };
        run.show(&options.bundle);
        Ok((run, metrics))
    }
}

/// The newest step that a run saved.
fn saved(run: &Run) -> Result<Option<u64>> {
    Ok(run.checkpoints()?.newest()?.map(|(_, checkpoint)| checkpoint.record.step))
}

/// Refuses a bundle that was trained: nobody said what to start from.
fn untrained(bundle: &Path, manifest: &Manifest, newest: Option<&Run>) -> Result<()> {
    let trained = |what: String| Err(Error::invalid(what).in_file(bundle).with_hint(CHOICES));
    if let Some(run) = newest
        && let Some(step) = saved(run)?
    {
        return trained(format!("this bundle was trained: run {} saved its step {step}; where is training to start?", run.name));
    }
    let initial = inside::path(bundle, &[INITIAL])?;
    if initial.is_dir() && !adapter_file::is_same(bundle, &initial, manifest)? {
        return trained("this bundle was trained: its adapter is not the one that `inject` wrote; where is training to start?".to_owned());
    }
    Ok(())
}

/// Puts the state where the run starts, and gives the steps taken and the place in the data.
pub(super) fn begin(
    beginning: &Beginning,
    manifest: &Manifest,
    engine: &mut Engine,
    rows: usize,
    conditions: &Conditions,
) -> Result<(u64, Cursor)> {
    let Some(Checkpoint { record, .. }) = &beginning.checkpoint else {
        let start = adapter_file::read(&beginning.adapter, manifest)?;
        engine.write(Input::Trainable.name(), start)?;
        return Ok((0, Cursor::default()));
    };
    record.conditions.check(conditions)?;
    let cursor = record.place_in(rows)?;
    for part in engine.parts() {
        let length = engine.length(part)?;
        let values = beginning.checkpoint.as_ref().map(|checkpoint| checkpoint.part(part, length));
        engine.write(part, values.transpose()?.unwrap_or_default().to_vec())?;
    }
    engine.scale = engine.scale.map(|fresh| record.loss_scale.unwrap_or(fresh));
    Ok((record.step, cursor))
}
