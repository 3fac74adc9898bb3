//! `metrics.jsonl`: what happened in every step, one JSON object a line, in the order in which it happened.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::files::{Staged, fault, inside};

/// One optimizer step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepRecord {
    /// The number of the step, from 1.
    pub step: u64,
    /// The loss before the update, mean over the labels that count; `null` in the file if it is no finite number.
    pub loss: f32,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// The norm of the whole gradient, before clipping.
    pub grad_norm: f32,
    /// Tokens that were read, padding not counted.
    pub tokens: usize,
    /// Wall time of the step.
    pub seconds: f64,
    /// How often all rows were read when it ended.
    pub epoch: f64,
    /// Whether the step was refused because loss, gradient or the state after it are no finite numbers.
    #[serde(skip_serializing_if = "is_false")]
    pub diverged: bool,
    /// Whether the step changed nothing because the gradient left the range of float16: the loss is scaled less from then on.
    #[serde(skip_serializing_if = "is_false")]
    pub skipped: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Appends records to a metrics file, each on disk when the call returns.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Starts an empty file, in place of what was there.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = inside::append(path)?;
        file.set_len(0).in_file(path)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Goes on after the step of this number: the records of later steps, which will be taken again, are cut off, and so is a torn last line.
    /// An absent file is an empty one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        if inside::facts(path)?.is_some() {
            keep_until(path, path, step)?;
        }
        let file = inside::append(path)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Starts a file with what another run did until the step of this number.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn branch(other: &Path, path: &Path, step: u64) -> Result<Self> {
        if inside::facts(other)?.is_some() {
            keep_until(other, path, step)?;
        }
        Self::resume(path, step)
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn sync(&self) -> Result<()> {
        fault::point().and_then(|()| self.file.sync_data()).in_file(&self.path)
    }

    /// Appends one record: a [`StepRecord`] or that of an evaluation.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|error| Error::format("a metrics record", error))?;
        line.push(b'\n');
        // One call for the line, so that a reader never sees half of it.
        fault::point().and_then(|()| self.file.write_all(&line)).and_then(|()| self.file.flush()).in_file(&self.path)
    }
}

/// What a file of metrics tells of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// The last step that was taken.
    pub steps: u64,
    /// Its loss.
    pub loss: Option<f64>,
    /// The lowest loss on the evaluation data.
    pub best: Option<f64>,
}

impl Told {
    /// Reads a file of metrics, which need not be there; lines that are torn do not count.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn read(path: &Path) -> Result<Self> {
        let mut told = Self::default();
        for line in lines(path)? {
            match (line.split, line.loss) {
                (Some(_), Some(loss)) if told.best.is_none_or(|best| loss < best) => told.best = Some(loss),
                (None, loss) if !line.diverged => (told.steps, told.loss) = (line.step, loss),
                _ => {}
            }
        }
        Ok(told)
    }

    /// The values of a metric on the evaluation data, with the steps after which they were measured. Values that were no numbers are NaN.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the file.
    pub fn evaluations(path: &Path, metric: &str) -> Result<Vec<(u64, f64)>> {
        let evaluations = lines(path)?.into_iter().filter(|line| line.split.is_some());
        Ok(evaluations.map(|line| (line.step, line.value(metric).unwrap_or(f64::NAN))).collect())
    }
}

/// A line of metrics, as it is read again.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// The number of the step.
    pub step: u64,
    /// The loss; none where it was no finite number.
    pub loss: Option<f64>,
    /// Which data was measured; none for a step of training.
    pub split: Option<String>,
    /// Whether the step was refused.
    #[serde(default)]
    pub diverged: bool,
    /// What else the line has.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

impl Line {
    /// A number of the line, by its name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        let of = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_f64);
        match name {
            "loss" => self.loss,
            _ => of(self.others.get(name)).or_else(|| of(self.others.get("metrics")?.get(name))),
        }
    }

    /// What was measured, by name, in the order of the line.
    #[must_use]
    pub fn values(&self) -> Vec<(String, f64)> {
        let inner = self.others.get("metrics").and_then(serde_json::Value::as_object).into_iter().flatten();
        let all = self.others.iter().filter(|(name, _)| *name != "seconds").chain(inner);
        let all = all.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        self.loss.map(|loss| ("loss".to_owned(), loss)).into_iter().chain(all).collect()
    }
}

/// The lines of a file of metrics, which need not be there; lines that are torn are left out.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) with the file.
pub fn lines(path: &Path) -> Result<Vec<Line>> {
    if inside::facts(path)?.is_none() {
        return Ok(vec![]);
    }
    let lines = BufReader::new(File::open(path).in_file(path)?).split(b'\n');
    let read: Vec<Option<Line>> = lines.map(|line| Ok(serde_json::from_slice(&line.in_file(path)?).ok())).collect::<Result<_>>()?;
    Ok(read.into_iter().flatten().collect())
}

/// Writes the records of `from` until a step to `path`.
fn keep_until(from: &Path, path: &Path, step: u64) -> Result<()> {
    #[derive(Deserialize)]
    struct Numbered {
        step: u64,
    }
    let mut kept = Staged::new(path)?;
    for line in BufReader::new(File::open(from).in_file(from)?).split(b'\n') {
        let line = line.in_file(from)?;
        if serde_json::from_slice::<Numbered>(&line).is_ok_and(|record| record.step <= step) {
            kept.write(&line)?;
            kept.write(b"\n")?;
        }
    }
    kept.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::evaluate::EvalRecord;

    fn record(step: u64, loss: f32) -> StepRecord {
        StepRecord {
            step,
            loss,
            learning_rate: 0.001,
            grad_norm: 2.0,
            tokens: 64,
            seconds: 0.5,
            epoch: 0.25,
            diverged: !loss.is_finite(),
            skipped: false,
        }
    }

    #[test]
    fn every_record_is_a_line() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(&path)?;
        metrics.write(&record(1, 0.5))?;
        metrics.write(&EvalRecord {
            step: 1,
            split: "eval",
            loss: 1.0,
            perplexity: None,
            accuracy: Some(0.75),
            metrics: BTreeMap::new(),
            seconds: 2.0,
        })?;
        metrics.write(&record(2, f32::NAN))?;
        assert_eq!(
            fs::read_to_string(&path)?,
            "{\"step\":1,\"loss\":0.5,\"learning_rate\":0.001,\"grad_norm\":2.0,\"tokens\":64,\"seconds\":0.5,\"epoch\":0.25}\n\
             {\"step\":1,\"split\":\"eval\",\"loss\":1.0,\"accuracy\":0.75,\"seconds\":2.0}\n\
             {\"step\":2,\"loss\":null,\"learning_rate\":0.001,\"grad_norm\":2.0,\"tokens\":64,\"seconds\":0.5,\"epoch\":0.25,\"diverged\":true}\n"
        );
        Ok(())
    }

    #[test]
    fn resuming_cuts_off_what_will_be_done_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        Metrics::resume(&path, 0)?.write(&record(1, 0.5))?;
        let mut metrics = Metrics::resume(&path, 1)?;
        for step in 2..=4 {
            metrics.write(&record(step, 0.5))?;
        }
        fs::write(&path, [fs::read(&path)?, b"{\"step\":2,\"lo".to_vec()].concat())?;
        Metrics::resume(&path, 2)?.write(&record(3, 0.25))?;
        let text = fs::read_to_string(&path)?;
        let steps: Vec<&str> = text.lines().filter_map(|line| line.split(',').next()).collect();
        assert_eq!(steps, ["{\"step\":1", "{\"step\":2", "{\"step\":3"]);
        assert!(text.ends_with("\"epoch\":0.25}\n") && text.contains("0.25"));
        Ok(())
    }
}
