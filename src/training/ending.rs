//! How a run ends: early or in full, and what is reported.

use std::path::Path;
use std::time::Duration;

use super::best::{Best, Goal};
use super::options::Watching;
use super::{Options, Summary};
use crate::data::Dataset;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::evaluate::Evaluation;
use crate::export::{Bundle, Manifest, adapter_file, card, pending};
use crate::num;
use crate::ort::{Device, Runtime};
use crate::training::report::{self, Facts, Samples};
use crate::training::runs::{self, Ended};

/// Whether nothing got better for as many evaluations as somebody has patience for.
pub(super) fn is_exhausted(best: &Best, watching: &Watching) -> bool {
    watching.patience.is_some_and(|patience| best.since >= patience.get())
}

/// Refuses a metric that is not measured.
pub(super) fn measured(goal: &Goal, names: &[&str]) -> Result<()> {
    if names.contains(&goal.metric()) {
        return Ok(());
    }
    Err(Error::not_found("metric", goal.metric()).with_hint(format!("`metric` is one of {}", names.join(", "))))
}

pub(super) fn nothing_measured() -> Error {
    let error = Error::invalid("choosing the best step needs eval data, and there is none");
    error.with_hint("`val_size 0.1` holds back a tenth of the data, `eval_data FILE` names other rows")
}

/// Puts the adapter of a run's last checkpoint, or of its best one, into the bundle, unless it is there.
pub(super) fn finished(bundle: &Bundle, run: &mut runs::Run, last: u64, watching: &Watching) -> Result<Summary> {
    let best = if watching.load_best { run.best_saved()? } else { None };
    let kept = run.record.kept.or(best).unwrap_or(last);
    if run.record.ended != Some(Ended::Finished) {
        let hint = format!("step {kept} of run {} is saved: the same command with `resume` puts it into the bundle", run.name);
        pending::follow(bundle.folder(), &pending::Source { run: run.name.clone(), step: kept }).hint(hint)?;
        bundle.renew_inference()?;
        if let Err(error) = run.finish(kept) {
            tracing::warn!("the end of run {} could not be recorded: {error}", run.name);
        }
    }
    Ok(Summary {
        run: run.name.clone(),
        was_finished: true,
        steps: last,
        first_loss: None,
        loss: None,
        tokens: 0,
        time: Duration::ZERO,
        evaluation: None,
        adapter: bundle.folder().join(adapter_file::FILE),
        kept,
        best: None,
        stopped_early: false,
        some_rows: None,
    })
}

/// What a run computes with, for its report.
pub(super) fn environment(runtime: &Runtime, manifest: &Manifest, device: Device) -> Vec<(&'static str, String)> {
    let facts = runtime.facts();
    vec![
        ("program", format!("peft-onnx {}", env!("CARGO_PKG_VERSION"))),
        ("ONNX Runtime", facts.version.clone().unwrap_or_else(|| facts.build.clone())),
        ("device", format!("{device}, {} threads", facts.threads)),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("method", manifest.method.clone()),
        ("task", manifest.task.clone()),
        ("loss", manifest.loss.name.clone()),
        ("trainable parameters", manifest.trainable_count.to_string()),
        ("base", format!("{} ({})", manifest.base.file, manifest.base.fingerprint)),
    ]
}

/// Writes the model card of a bundle again, with what was measured of its adapter. It is for people, as the page of a run is.
pub(super) fn describe(bundle: &Path, results: &[(String, f64)]) {
    if let Err(error) = Manifest::read(bundle).and_then(|manifest| card::write(bundle, &manifest, results)) {
        tracing::warn!("the model card could not be written: {error}");
    }
}

/// Writes the page of a run. It is for people: that it cannot be written is said, and is no reason to fail.
pub(super) fn report(
    run: &runs::Run,
    manifest: &Manifest,
    environment: &[(&'static str, String)],
    class_names: &[String],
    evaluation: Option<&Evaluation>,
) {
    let confusion = evaluation.and_then(|evaluation| evaluation.confusion.as_ref());
    let facts = Facts { environment: environment.to_vec(), confusion, class_names, samples: None };
    if let Err(error) = report::write(run, manifest, &facts) {
        tracing::warn!("the report of run {} could not be written: {error}", run.name);
    }
}

/// Writes the page of a run that ended well once more, with some rows before and after it.
///
/// # Errors
/// If the run's files cannot be read, or the page cannot be written.
pub fn tell_again(runtime: &Runtime, options: &Options, summary: &Summary, samples: &Samples) -> Result<()> {
    let manifest = Manifest::read(&options.bundle)?;
    let run = runs::Runs::of(&options.bundle).named(&summary.run)?;
    let confusion = summary.evaluation.as_ref().and_then(|evaluation| evaluation.confusion.as_ref());
    let environment = environment(runtime, &manifest, options.device);
    report::write(&run, &manifest, &Facts { environment, confusion, class_names: &manifest.class_names, samples: Some(samples) })
}

/// The mean of losses, if there are any.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean for people")]
pub(super) fn mean(losses: &[f32]) -> Option<f32> {
    let sum: f64 = losses.iter().copied().map(f64::from).sum();
    (!losses.is_empty()).then(|| (sum / losses.len() as f64) as f32)
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers of steps are far below 2^53")]
pub(super) fn ratio(step: u64, of: usize) -> f64 {
    step as f64 / of.max(1) as f64
}

pub(super) fn whole(number: usize) -> u64 {
    num::wide(number)
}

/// The names of classes that predictions are told by: those of the data, else the bundle's.
pub(super) fn names_of(dataset: &Dataset, manifest: &Manifest) -> Vec<String> {
    dataset.class_names.clone().unwrap_or_else(|| manifest.class_names.clone())
}

/// What to do about an update that left the range of numbers.
pub(super) const SMALLER: &str = "try a smaller `learning_rate`, a longer `warmup_steps` or a smaller `max_grad_norm`";

/// What to do about a state that cannot be saved, where its numbers are the reason.
pub(super) fn smaller(error: Error) -> Error {
    if matches!(error.kind(), ErrorKind::Diverged(_)) { error.with_hint(SMALLER) } else { error }
}

/// What to do about a loss that was no number before anything was learnt.
pub(super) const UNTRAINED: &str = "nothing was learnt before, so it is not the learning rate: the model itself computes no number for these rows, because of what \
                         they hold or because its weights are not all finite (`peft-onnx eval` on each row tells which)";
