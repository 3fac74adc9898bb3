//! The runs of a bundle: each training has a folder of its own, which nothing later changes but the run itself.
//!
//! ```text
//! BUNDLE/runs/NAME/
//!   run.json        its number among the bundle's runs, what it started from, how it ended
//!   config.yaml     the options as used
//!   metrics.jsonl   a line a step
//!   report.html     the same for people, when it ended
//!   checkpoints/    see `checkpoint`
//! ```
//! `BUNDLE/metrics.jsonl` and `BUNDLE/checkpoints` lead to those of the newest run where the system has links. They are for people and their
//! tools: nothing here ever goes through them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::best::Goal;
use super::checkpoint::Checkpoints;
use super::metrics::Told;
use crate::error::{Context, Error, Result};
use crate::export::{CHECKPOINTS, RUNS, lock};
use crate::files::{self, fault, inside, leftovers, unfinished};

const RECORD: &str = "run.json";
const CONFIG: &str = "config.yaml";
const METRICS: &str = "metrics.jsonl";
/// The report of a run, for people.
const REPORT: &str = "report.html";
const VERSION: u32 = 1;
/// The largest number of a run.
const MOST: u64 = 1 << 32;
/// Characters of a run's name at most.
const LONGEST: usize = 100;

/// The runs of a bundle.
#[derive(Clone, Debug)]
pub struct Runs {
    bundle: PathBuf,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name: `001`, or what `--run` said.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What is known of it.
    pub record: Record,
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Its number among the bundle's runs, from 1 to 2³²: the largest is the newest.
    pub number: u64,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// What its first step started from.
    pub from: StartedFrom,
    /// How it ended; nothing while it runs, and if it was killed.
    pub ended: Option<Ended>,
    /// The metric by which its steps are compared; the loss where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The step whose adapter the bundle got when the run ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

/// What a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartedFrom {
    /// The adapter as `inject` wrote it.
    Initial,
    /// The adapter as it was in the bundle.
    Adapter,
    /// A checkpoint, of this step.
    Checkpoint(u64),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It took all its steps, and the bundle has its adapter.
    Finished,
    /// It was stopped and saved.
    Interrupted,
    /// It left the range of numbers; its last good state was saved.
    Diverged,
}

impl Ended {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Diverged => "diverged",
        }
    }
}

impl Runs {
    /// Those of a bundle.
    #[must_use]
    pub fn of(bundle: &Path) -> Self {
        Self { bundle: bundle.to_owned() }
    }

    /// All runs, the newest last. What has no record is none.
    ///
    /// # Errors
    /// If the folder cannot be read, or is a link.
    pub fn all(&self) -> Result<Vec<Run>> {
        let folder = inside::path(&self.bundle, &[RUNS])?;
        if !folder.is_dir() {
            return Ok(vec![]);
        }
        let mut runs = vec![];
        for entry in fs::read_dir(&folder).in_file(&folder)? {
            let name = entry.in_file(&folder)?.file_name();
            runs.extend(name.to_str().filter(|name| is_name(name)).and_then(|name| self.read(name).transpose()).transpose()?);
        }
        runs.sort_by_key(|run| run.record.number);
        Ok(runs)
    }

    /// The newest run, if there is any.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn newest(&self) -> Result<Option<Run>> {
        Ok(self.all()?.pop())
    }

    /// A run by its name.
    ///
    /// # Errors
    /// If there is none of this name, with the names that there are.
    pub fn named(&self, name: &str) -> Result<Run> {
        let mut runs = self.all()?;
        let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
        let place = names.iter().position(|there| there == name);
        place.map(|place| runs.swap_remove(place)).ok_or_else(|| {
            let hint = if names.is_empty() { "it has no runs yet".to_owned() } else { format!("its runs are {}", names.join(", ")) };
            Error::not_found("run", name).in_file(&self.bundle).with_hint(hint)
        })
    }

    /// The run whose folder has a checkpoint's.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn with_checkpoint(&self, checkpoint: &Path) -> Result<Option<Run>> {
        let Ok(checkpoint) = checkpoint.canonicalize() else { return Ok(None) };
        let has = |run: &Run| run.folder.canonicalize().is_ok_and(|folder| checkpoint.parent() == Some(&folder.join(CHECKPOINTS)));
        Ok(self.all()?.into_iter().find(has))
    }

    /// The run whose folder this is.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn in_folder(&self, folder: &Path) -> Result<Option<Run>> {
        let Ok(folder) = folder.canonicalize() else { return Ok(None) };
        Ok(self.all()?.into_iter().find(|run| run.folder.canonicalize().is_ok_and(|own| own == folder)))
    }

    /// Makes the folder of a new run, of this name or the next number's.
    ///
    /// # Errors
    /// If a run of this name is there, or the folder cannot be made.
    pub fn begin(&self, name: Option<&str>, from: StartedFrom) -> Result<Run> {
        let folder = inside::make_folder(&self.bundle, &[RUNS])?;
        let mut number = self.newest()?.map_or(0, |run| run.record.number) + 1;
        let name = name.map_or_else(
            || {
                while folder.join(format!("{number:03}")).symlink_metadata().is_ok() {
                    number += 1;
                }
                format!("{number:03}")
            },
            str::to_owned,
        );
        self.check_new(&name)?;
        let record = Record { version: VERSION, number, began: lock::now(), from, ended: None, metric: None, kept: None };
        let staged = unfinished::Folder::new(&folder)?;
        let path = staged.path().join(CHECKPOINTS);
        fs::create_dir(&path).in_file(&path)?;
        let run = Run { folder: folder.join(&name), name, record };
        Run { folder: staged.path().to_owned(), ..run.clone() }.write()?;
        staged.placed(&run.folder)?;
        Ok(run)
    }

    /// Checks that a new run may have a name.
    ///
    /// # Errors
    /// If it is no name of a folder, or taken.
    pub fn check_new(&self, name: &str) -> Result<()> {
        if !is_name(name) {
            let what = format!("letters, digits, `-`, `_` and `.`, {LONGEST} at most, the first a letter or digit");
            return Err(Error::setting("run", what, name));
        }
        let folder = inside::path(&self.bundle, &[RUNS, name])?;
        match folder.symlink_metadata() {
            Err(_) => Ok(()),
            Ok(_) => Err(Error::invalid("a run of this name is there")
                .in_file(folder)
                .with_hint(format!("`resume` and `run {name}` go on with it; a new run needs another name"))),
        }
    }

    /// Removes what killed commands left half written. Whoever calls this holds the bundle's lock.
    pub fn tidy(&self) {
        let folder = self.bundle.join(RUNS);
        let mut places = vec![self.bundle.clone(), folder];
        for run in self.all().unwrap_or_default() {
            places.push(run.folder.join(CHECKPOINTS));
            places.push(run.folder);
        }
        for place in places.iter().filter(|place| inside::facts(place).is_ok_and(|facts| facts.is_some_and(|facts| facts.is_dir()))) {
            remove_temporary(place);
        }
    }

    fn read(&self, name: &str) -> Result<Option<Run>> {
        let folder = inside::path(&self.bundle, &[RUNS, name])?;
        let path = inside::path(&folder, &[RECORD])?;
        if !path.is_file() {
            return Ok(None);
        }
        let record: Record =
            serde_json::from_slice(&inside::read(&path)?).map_err(|error| Error::format("a run's record", error).in_file(&path))?;
        if record.version > VERSION {
            return Err(Error::mismatch("version of the run", format!("{VERSION} at most"), record.version).in_file(&path));
        }
        if record.number > MOST {
            return Err(Error::mismatch("number of the run", format!("{MOST} at most"), record.number).in_file(&path));
        }
        Ok(Some(Run { name: name.to_owned(), folder, record }))
    }
}

impl Run {
    /// Its checkpoints.
    ///
    /// # Errors
    /// If their folder is a link.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        Ok(Checkpoints::in_folder(inside::path(&self.folder, &[CHECKPOINTS])?))
    }

    /// The file of its metrics.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.folder.join(METRICS)
    }

    /// What its metrics tell.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn told(&self) -> Result<Told> {
        Told::read(&self.metrics())
    }

    /// The metric by which its steps are compared.
    #[must_use]
    pub fn goal(&self) -> Goal {
        self.record.metric.as_deref().map(Goal::of).unwrap_or_default()
    }

    /// The step of the checkpoint that is best by the run's metric on the evaluation data, of those that are there.
    ///
    /// # Errors
    /// If metrics or checkpoints cannot be read.
    pub fn best_saved(&self) -> Result<Option<u64>> {
        let saved: Vec<u64> = self.checkpoints()?.steps()?.into_iter().map(|(step, _)| step).collect();
        let goal = self.goal();
        let measured =
            Told::evaluations(&self.metrics(), goal.metric())?.into_iter().filter(|(step, value)| saved.contains(step) && !value.is_nan());
        let better = |best: (u64, f64), next: (u64, f64)| if goal.is_better(next.1, best.1) { next } else { best };
        Ok(measured.reduce(better).map(|(step, _)| step))
    }

    /// The file of its options.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// The file of its report.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.folder.join(REPORT)
    }

    /// Keeps the options that are used.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep_config(&self, text: &str) -> Result<()> {
        files::replace(&self.config(), text.as_bytes())
    }

    /// Keeps that it goes on, and the metric by which its steps are compared.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn begin(&mut self, goal: &Goal) -> Result<()> {
        let metric = (*goal != Goal::default()).then(|| goal.metric().to_owned());
        self.change(Record { ended: None, kept: None, metric, ..self.record.clone() })
    }

    /// Keeps how it ended.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end(&mut self, ended: Ended) -> Result<()> {
        self.change(Record { ended: Some(ended), ..self.record.clone() })
    }

    /// Keeps that it ended well, and the step whose adapter the bundle has.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&mut self, kept: u64) -> Result<()> {
        self.change(Record { ended: Some(Ended::Finished), kept: Some(kept), ..self.record.clone() })
    }

    fn change(&mut self, record: Record) -> Result<()> {
        if self.record == record {
            return Ok(());
        }
        self.record = record;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.record).map_err(|error| Error::format("JSON", error))?;
        files::replace(&self.folder.join(RECORD), &text)
    }

    /// Lets the bundle's links lead to this run. Where there are no links, or something else stands in their place, they are left out.
    pub fn show(&self, bundle: &Path) {
        #[cfg(unix)]
        for name in [METRICS, CHECKPOINTS] {
            if let Err(error) = links::lead(bundle, name, &format!("{RUNS}/{}/{name}", self.name)) {
                tracing::warn!("{}: {error}", bundle.join(name).display());
            }
        }
        #[cfg(not(unix))]
        let _ = bundle;
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= LONGEST
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Removes files and folders with the names that unfinished ones have.
fn remove_temporary(folder: &Path) {
    // The number of its process stands in a name. Whoever it was does not hold the bundle's lock any more, even if another has its number now.
    let is_unfinished = |name: &str| {
        let rest = name.strip_prefix(leftovers::MARK).and_then(|rest| rest.split_once('-'));
        rest.is_some_and(|(process, _)| process.parse::<u32>().is_ok())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_unfinished) {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            if let Err(error) = removed {
                tracing::warn!("{}: leftovers of an earlier command could not be removed: {error}", entry.path().display());
            }
        }
    }
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::{Context, Error, Path, RUNS, Result, fault, fs, is_name, unfinished};

    /// Makes `name` in the bundle a link to `target`, over one that led to another run; anything else stays.
    pub(super) fn lead(bundle: &Path, name: &str, target: &str) -> Result<()> {
        let path = bundle.join(name);
        match fs::read_link(&path) {
            Ok(now) if now == Path::new(target) => return Ok(()),
            Ok(now) if !is_of_a_run(&now, name) => {
                return Err(Error::invalid(format!("a link to {} stays where the newest run's would stand", now.display())));
            }
            Err(_) if path.symlink_metadata().is_ok() => {
                return Err(Error::invalid("this stays where a link to the newest run's would stand"));
            }
            Ok(_) | Err(_) => {}
        }
        let folder = unfinished::Folder::new(bundle)?;
        let link = folder.path().join(name);
        symlink(target, &link).in_file(&path)?;
        fault::point().and_then(|()| fs::rename(&link, &path)).in_file(&path)
    }

    fn is_of_a_run(target: &Path, name: &str) -> bool {
        let parts: Option<Vec<&str>> = target.components().map(|part| part.as_os_str().to_str()).collect();
        matches!(parts.as_deref(), Some([RUNS, run, last]) if is_name(run) && *last == name)
    }
}

#[cfg(test)]
mod tests;
