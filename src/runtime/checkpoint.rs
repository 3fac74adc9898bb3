//! Checkpoints: all that a run needs to go on as if it had never stopped.
//!
//! ```text
//! BUNDLE/checkpoints/step-120/
//!   state.safetensors   trainable, adam_m, adam_v: float32 [N]
//!   trainer.json        step, place in the data, and the options that must stay the same
//! ```
//! A folder appears complete, by a rename. Dropout follows from seed and step, the order of rows from seed and epoch, so that there is no state
//! of random generators to keep.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Place, Result};
use crate::ir::Tensor;
use crate::peft::safetensors;
use crate::runtime::data::{Cursor, Order};

const STATE: &str = "state.safetensors";
const RECORD: &str = "trainer.json";
const PREFIX: &str = "step-";
const VERSION: u32 = 1;

/// The training state after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What is known beside the numbers.
    pub record: Record,
    /// The parts of the state by name, each as long as the trainable vector.
    pub state: IndexMap<String, Vec<f32>>,
}

/// What is known of a checkpoint beside its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this layout.
    pub version: u32,
    /// The optimizer steps taken.
    pub step: u64,
    /// Where the next batch begins.
    pub cursor: Cursor,
    /// What decides how the run goes on, and must stay the same.
    pub conditions: Conditions,
    /// Learning rates and the optimizer's numbers, in words: a run may go on with others, but is another one then.
    pub optimization: String,
}

/// What must be the same for a run to go on bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The adapter's method and base.
    pub bundle: String,
    /// A hash of the data file.
    pub data: String,
    /// Rows of the data after reading: other tokenizers, lengths or packing give others.
    pub rows: String,
    /// Rows a batch.
    pub batch_size: usize,
    /// Batches a step.
    pub accumulation: usize,
    /// The order of rows.
    pub order: Order,
    /// The seed of dropout.
    pub seed: u64,
}

impl Record {
    /// What is known of a checkpoint, in this version's layout.
    #[must_use]
    pub fn new(step: u64, cursor: Cursor, conditions: Conditions, optimization: String) -> Self {
        Self { version: VERSION, step, cursor, conditions, optimization }
    }
}

impl Conditions {
    /// Compares the conditions of a checkpoint with those of the run that is to go on from it.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) with the first that differs, and what to do.
    pub fn check(&self, now: &Self) -> Result<()> {
        let text = |order: Order| match order {
            Order::File => "the file's (--no-shuffle)".to_owned(),
            Order::Shuffled { seed } => format!("shuffled by --seed {seed}"),
        };
        let rows = [
            ("the bundle", self.bundle.clone(), now.bundle.clone()),
            ("the data file's contents", self.data.clone(), now.data.clone()),
            ("the rows as they were read (--max-length, --packing, --tokenizer)", self.rows.clone(), now.rows.clone()),
            ("--batch-size", self.batch_size.to_string(), now.batch_size.to_string()),
            ("--gradient-accumulation-steps", self.accumulation.to_string(), now.accumulation.to_string()),
            ("the order of rows", text(self.order), text(now.order)),
            ("--seed", self.seed.to_string(), now.seed.to_string()),
        ];
        match rows.into_iter().find(|(_, then, now)| then != now) {
            None => Ok(()),
            Some((what, then, now)) => Err(Error::mismatch(what, format!("{then}, as in the checkpoint"), now)
                .with_hint("give the options of the interrupted run, or leave out --resume to start a new one")),
        }
    }
}

/// A hash of a file's bytes.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) with the file.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut reader = BufReader::with_capacity(1 << 20, fs::File::open(path).in_file(path)?);
    loop {
        let bytes = reader.fill_buf().in_file(path)?;
        if bytes.is_empty() {
            return Ok(text(&hash.finalize()));
        }
        hash.update(bytes);
        let length = bytes.len();
        reader.consume(length);
    }
}

/// A hash of numbers.
pub fn numbers_hash(numbers: impl Iterator<Item = i64>) -> String {
    let mut hash = Sha256::new();
    numbers.for_each(|number| hash.update(number.to_le_bytes()));
    text(&hash.finalize())
}

fn text(hash: &[u8]) -> String {
    hash.iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// The checkpoints of a bundle.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those of a bundle.
    #[must_use]
    pub fn of(bundle: &Path) -> Self {
        Self { folder: bundle.join("checkpoints") }
    }

    /// Writes a checkpoint, over one of the same step; then removes all but the `keep` newest.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, checkpoint: &Checkpoint, keep: Option<usize>) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder).in_file(&self.folder)?;
        let target = self.folder.join(format!("{PREFIX}{}", checkpoint.record.step));
        let staged = tempfile::Builder::new().prefix(".tmp").tempdir_in(&self.folder).in_file(&self.folder)?;
        let tensors = checkpoint.state.iter().map(|(name, values)| (name.clone(), Tensor::from_f32(&[values.len()], values))).collect();
        safetensors::write(&staged.path().join(STATE), &tensors)?;
        let record = serde_json::to_vec_pretty(&checkpoint.record).map_err(|error| Error::format("JSON", error))?;
        crate::files::replace(&staged.path().join(RECORD), &record)?;
        readable(staged.path()).in_file(&target)?;
        if target.exists() {
            fs::remove_dir_all(&target).in_file(&target)?;
        }
        let staged = staged.keep();
        fs::rename(&staged, &target).in_file(&target)?;
        if let Some(keep) = keep {
            self.forget_all_but(keep.max(1))?;
        }
        Ok(target)
    }

    /// Reads the newest checkpoint that is whole; others are named in warnings and passed over.
    ///
    /// # Errors
    /// If there is none.
    pub fn newest(&self) -> Result<Checkpoint> {
        for (_, folder) in self.steps()?.into_iter().rev() {
            match Checkpoint::read(&folder) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(error) => tracing::warn!("passing over a checkpoint: {error}"),
            }
        }
        Err(Error::not_found("checkpoint", format!("{PREFIX}N")).in_file(&self.folder).with_hint("leave out --resume to start from step 1"))
    }

    /// Puts the checkpoints of an earlier run aside, under the name `checkpoints.old`, so that a new run's are not taken for its.
    ///
    /// # Errors
    /// If they cannot be moved.
    pub fn put_aside(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let aside = self.folder.with_extension("old");
        if aside.exists() {
            fs::remove_dir_all(&aside).in_file(&aside)?;
        }
        fs::rename(&self.folder, &aside).in_file(&self.folder)
    }

    /// The folders with their steps, oldest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>> {
        if !self.folder.exists() {
            return Ok(vec![]);
        }
        let mut steps = vec![];
        for entry in fs::read_dir(&self.folder).in_file(&self.folder)? {
            let path = entry.in_file(&self.folder)?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
            steps.extend(number.map(|number| (number, path)));
        }
        steps.sort();
        Ok(steps)
    }

    fn forget_all_but(&self, keep: usize) -> Result<()> {
        let steps = self.steps()?;
        let old = steps.len().saturating_sub(keep);
        steps.iter().take(old).try_for_each(|(_, folder)| fs::remove_dir_all(folder).in_file(folder))
    }
}

impl Checkpoint {
    /// Reads a checkpoint's folder.
    ///
    /// # Errors
    /// If it is not whole, or of a newer version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let bytes = fs::read(&path).in_file(&path)?;
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| Error::format("a checkpoint's record", error).in_file(&path))?;
        if record.version > VERSION {
            return Err(Error::mismatch("version of the checkpoint", format!("{VERSION} at most"), record.version).in_file(&path));
        }
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

/// Temporary folders are private; a checkpoint is not.
fn readable(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(folder, <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let conditions = Conditions {
            bundle: "lora of x".into(),
            data: "d".into(),
            rows: "r".into(),
            batch_size: 4,
            accumulation: 2,
            order: Order::Shuffled { seed: 1 },
            seed: 1,
        };
        let state = ["adam_m", "adam_v", "trainable"].map(|name| (name.to_owned(), vec![0.1_f32, -2.5e-30, f32::MIN_POSITIVE]));
        Checkpoint { record: Record::new(step, Cursor { epoch: 1, position: 8 }, conditions, "linear".into()), state: state.into() }
    }

    #[test]
    fn what_is_written_is_read_bit_by_bit_and_the_newest_is_taken() -> Result<()> {
        let bundle = tempfile::tempdir()?;
        let checkpoints = Checkpoints::of(bundle.path());
        assert!(checkpoints.newest().is_err());
        for step in [2, 10, 9] {
            checkpoints.write(&checkpoint(step), None)?;
        }
        assert_eq!(checkpoints.newest()?, checkpoint(10));
        fs::write(bundle.path().join("checkpoints/step-10").join(STATE), b"torn")?;
        assert_eq!(checkpoints.newest()?, checkpoint(9));
        assert_eq!(fs::read_dir(bundle.path().join("checkpoints"))?.count(), 3);
        Ok(())
    }

    #[test]
    fn only_the_newest_are_kept() -> Result<()> {
        let bundle = tempfile::tempdir()?;
        let checkpoints = Checkpoints::of(bundle.path());
        for step in 1..=5 {
            checkpoints.write(&checkpoint(step), Some(2))?;
        }
        let left: Vec<u64> = checkpoints.steps()?.into_iter().map(|(step, _)| step).collect();
        assert_eq!(left, [4, 5]);
        checkpoints.put_aside()?;
        assert!(checkpoints.newest().is_err() && bundle.path().join("checkpoints.old/step-5").exists());
        Ok(())
    }

    #[test]
    fn another_condition_is_named() {
        let then = checkpoint(1).record.conditions;
        assert!(then.check(&then).is_ok());
        let error = then.check(&Conditions { batch_size: 8, ..then.clone() }).unwrap_err();
        assert_eq!(error.to_string(), "--batch-size: expected 4, as in the checkpoint, found 8");
        assert!(then.check(&Conditions { data: "e".into(), ..then.clone() }).is_err());
    }
}
