//! Checkpoints: all that a run needs to go on as if it had never stopped, in a folder that is an adapter of Hugging Face PEFT as well.
//!
//! ```text
//! BUNDLE/runs/NAME/checkpoints/step-120/
//!   adapter_config.json, adapter_model.safetensors (and what lies beside it)   the adapter after this step
//!   state.safetensors   trainable, adam_m, adam_v: float32 [N]
//!   trainer.json        step, place in the data, the options that must stay the same, length and SHA-256 of every file
//! ```
//! A folder appears complete, by a rename: that is the moment at which a state is saved. Dropout follows from seed and step, the order of rows from
//! seed and epoch, so that there is no state of random generators to keep.

mod conditions;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use conditions::{Conditions, file_hash, numbers_hash};

use crate::data::Cursor;
use crate::error::{Context, Error, Place, Result};
use crate::files::{fault, inside, unfinished};
use crate::safetensors;
use crate::training::loss_scale::LossScale;

const STATE: &str = "state.safetensors";
const RECORD: &str = "trainer.json";
const PREFIX: &str = "step-";
const VERSION: u32 = 2;
/// What `trainer.json` says of itself: a folder that says so may be removed when newer ones come.
const KIND: &str = "a checkpoint of peft-onnx";

/// The training state after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What is known beside the numbers.
    pub record: Record,
    /// The parts of the state by name, each as long as the trainable vector.
    pub state: IndexMap<String, Vec<f32>>,
}

/// Which checkpoints stay when another one is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest; none: all.
    pub newest: Option<usize>,
    /// The one of this step, however old it is.
    pub best: Option<u64>,
    /// Not the one of this step: it was kept for being the best, and is not any more.
    pub superseded: Option<u64>,
}

/// What to do about a checkpoint that is not what was written.
const DAMAGED: &str = "the checkpoint was damaged after it was written: take another one, with `checkpoint` or `resume PATH`";

/// What is known of a checkpoint beside its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What this is.
    kind: String,
    /// The version of this layout.
    version: u32,
    /// The optimizer steps taken.
    pub step: u64,
    /// The optimizer steps of the whole run, as it was asked for.
    pub total_steps: u64,
    /// Where the next batch begins.
    pub cursor: Cursor,
    /// What decides how the run goes on, and must stay the same.
    pub conditions: Conditions,
    /// Learning rates and the optimizer's numbers, in words: a run may go on with others, but is another one then.
    pub optimization: String,
    /// How the loss is scaled, of runs that scale it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// The other files of the folder, by name.
    files: IndexMap<String, FileFacts>,
}

/// What a file must be to be the one that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileFacts {
    bytes: u64,
    sha256: String,
}

impl Record {
    /// What is known of a checkpoint, in this version's layout; of its files when they are written.
    #[must_use]
    pub fn new(step: u64, total_steps: u64, cursor: Cursor, conditions: Conditions, optimization: String) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            step,
            total_steps,
            cursor,
            conditions,
            optimization,
            loss_scale: None,
            files: IndexMap::new(),
        }
    }

    /// The same with how the loss is scaled.
    #[must_use]
    pub fn scaling(self, loss_scale: Option<LossScale>) -> Self {
        Self { loss_scale, ..self }
    }

    /// Reads what is known of a checkpoint, without its numbers.
    ///
    /// # Errors
    /// If the folder is no checkpoint, or one of a newer version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let record: Self =
            serde_json::from_slice(&inside::read(&path)?).map_err(|error| Error::format("a checkpoint's record", error).in_file(&path))?;
        if record.kind != KIND {
            return Err(Error::mismatch("kind", KIND, record.kind).in_file(&path));
        }
        if record.version > VERSION {
            return Err(Error::mismatch("version of the checkpoint", format!("{VERSION} at most"), record.version).in_file(&path));
        }
        record.is_possible().in_file(&path)?;
        Ok(record)
    }

    /// Whether a folder has the record of a checkpoint.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(RECORD).symlink_metadata().is_ok()
    }

    /// Whether a run can have come here: a step reads a row at least.
    fn is_possible(&self) -> Result<()> {
        let Self { step, total_steps, cursor, .. } = self;
        if step > total_steps {
            return Err(Error::mismatch("step", format!("{total_steps} at most, the steps of the run"), step).with_hint(DAMAGED));
        }
        if cursor.epoch > *step {
            return Err(Error::mismatch("epoch of the cursor", format!("{step} at most, one a step"), cursor.epoch).with_hint(DAMAGED));
        }
        Ok(())
    }

    /// Where the next batch begins, of a data file with so many rows.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if that is behind the last row.
    pub fn place_in(&self, rows: usize) -> Result<Cursor> {
        let Cursor { position, .. } = self.cursor;
        if position > rows {
            return Err(Error::mismatch("position of the cursor", format!("{rows} at most, the rows"), position).with_hint(DAMAGED));
        }
        Ok(self.cursor)
    }

    /// Compares the files of a checkpoint with what was written.
    ///
    /// # Errors
    /// If one is not there, a link, or of other bytes.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        let damaged = |name: &str, error: Error| error.in_file(folder.join(name)).with_hint(DAMAGED);
        for (name, expected) in &self.files {
            let found = facts_of(folder, name).map_err(|error| error.with_hint("the checkpoint is not whole: take another one"))?;
            if found != *expected {
                return Err(damaged(name, Error::mismatch("SHA-256", &expected.sha256, &found.sha256)));
            }
        }
        if self.files.contains_key(STATE) { Ok(()) } else { Err(damaged(RECORD, Error::not_found("file in its list", STATE))) }
    }
}

fn facts_of(folder: &Path, name: &str) -> Result<FileFacts> {
    if Path::new(name).components().count() != 1 || name.starts_with("..") {
        return Err(Error::invalid(format!("{name:?} is no name of a file")).in_file(folder));
    }
    let path = folder.join(name);
    let facts = inside::facts(&path)?.ok_or_else(|| Error::not_found("file", name).in_file(folder))?;
    Ok(FileFacts { bytes: facts.len(), sha256: file_hash(&path)? })
}

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those in a folder.
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder of a step.
    #[must_use]
    pub fn of_step(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step}"))
    }

    /// Writes a checkpoint, over one of the same step; then removes those that are not kept. `adapter` writes the adapter's files into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written; then there is nothing of the checkpoint.
    pub fn write(&self, checkpoint: &Checkpoint, keep: Keep, adapter: &dyn Fn(&Path) -> Result<()>) -> Result<PathBuf> {
        inside::facts(&self.folder)?;
        let target = self.of_step(checkpoint.record.step);
        let staged = unfinished::Folder::new(&self.folder)?;
        safetensors::write_vectors(&staged.path().join(STATE), &checkpoint.state)?;
        adapter(staged.path())?;
        let record = Record { files: written(staged.path())?, ..checkpoint.record.clone() };
        let text = serde_json::to_vec_pretty(&record).map_err(|error| Error::format("JSON", error))?;
        crate::files::replace(&staged.path().join(RECORD), &text)?;
        sync(staged.path());
        // A damaged one may stand there, of which the run went on from an older one.
        let aside = inside::facts(&target)?.map(|_| self.put_aside(&target)).transpose()?;
        staged.placed(&target)?;
        sync(&self.folder);
        drop(aside);
        self.forget_all_but(keep);
        Ok(target)
    }

    /// Reads the newest checkpoint that is whole; others are named in warnings and passed over. Nothing if there is none.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self) -> Result<Option<(PathBuf, Checkpoint)>> {
        for (_, folder) in self.steps()?.into_iter().rev() {
            match Checkpoint::read(&folder) {
                Ok(checkpoint) => return Ok(Some((folder, checkpoint))),
                Err(error) => tracing::warn!("passing over a checkpoint: {error}"),
            }
        }
        Ok(None)
    }

    /// The folders with their steps, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read, or is a link.
    pub fn steps(&self) -> Result<Vec<(u64, PathBuf)>> {
        if inside::facts(&self.folder)?.is_none() {
            return Ok(vec![]);
        }
        let mut steps = vec![];
        for entry in fs::read_dir(&self.folder).in_file(&self.folder)? {
            let path = entry.in_file(&self.folder)?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
            steps.extend(number.filter(|_| path.is_dir() && !path.is_symlink()).map(|number| (number, path)));
        }
        steps.sort();
        Ok(steps)
    }

    /// Removes the oldest checkpoints. What does not say that it is one stays, and does not count; what cannot be removed is said.
    pub fn forget_all_but(&self, keep: Keep) {
        if keep.newest.is_none() && keep.superseded.is_none() {
            return;
        }
        let steps = self.steps().unwrap_or_default();
        let ours: Vec<_> =
            steps.into_iter().filter(|(step, folder)| Record::read(folder).is_ok_and(|record| record.step == *step)).collect();
        let old = keep.newest.map_or(0, |newest| ours.len().saturating_sub(newest.max(1)));
        let is_old = |place: usize, step: u64| place < old && keep.best != Some(step);
        let forgotten = ours.iter().enumerate().filter(|(place, (step, _))| is_old(*place, *step) || keep.superseded == Some(*step));
        for (_, (_, folder)) in forgotten {
            if let Err(error) = self.forget(folder) {
                tracing::warn!("{}: an old checkpoint could not be removed: {error}", folder.display());
            }
        }
    }

    /// Removes a checkpoint, so that no half of it is ever taken for one. On a full disk no folder can be made to put it aside; then it goes where it is, the file
    /// that says what it is first.
    fn forget(&self, folder: &Path) -> Result<()> {
        if self.put_aside(folder).is_ok() {
            return Ok(());
        }
        fs::remove_file(folder.join(RECORD)).and_then(|()| fs::remove_dir_all(folder)).in_file(folder)
    }

    /// Takes a checkpoint's folder away at once; its files vanish when what is returned is dropped.
    fn put_aside(&self, folder: &Path) -> Result<unfinished::Folder> {
        let aside = unfinished::Folder::new(&self.folder)?;
        fault::point().and_then(|()| fs::rename(folder, aside.path().join("old"))).in_file(folder)?;
        Ok(aside)
    }
}

/// The files of a folder with their lengths and hashes.
fn written(folder: &Path) -> Result<IndexMap<String, FileFacts>> {
    let mut names: Vec<String> = vec![];
    for entry in fs::read_dir(folder).in_file(folder)? {
        names.extend(entry.in_file(folder)?.file_name().into_string());
    }
    names.sort();
    names.into_iter().map(|name| Ok((name.clone(), facts_of(folder, &name)?))).collect()
}

/// Brings the names in a folder to the disk, where folders can be opened.
fn sync(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

impl Checkpoint {
    /// Reads a checkpoint's folder, whose files must be what was written.
    ///
    /// # Errors
    /// If it is not whole, damaged, or of a newer version.
    pub fn read(folder: &Path) -> Result<Self> {
        let record = Record::read(folder)?;
        record.verify(folder)?;
        let path = folder.join(STATE);
        let mut state = IndexMap::new();
        for (name, tensor) in safetensors::read(&path)? {
            let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()));
            state.insert(name.clone(), values.at(Place::Tensor(name)).in_file(&path)?);
        }
        Ok(Self { record, state })
    }

    /// A part of the state.
    ///
    /// # Errors
    /// If there is no such part, or it is not of that length.
    pub fn part(&self, name: &str, length: usize) -> Result<&[f32]> {
        let values = self.state.get(name).ok_or_else(|| Error::not_found("part of the state", name))?;
        if values.len() != length {
            return Err(Error::mismatch("numbers", length, values.len()).at(Place::Tensor(name.to_owned())));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
