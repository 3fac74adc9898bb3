//! What must be the same for a run to go on as if it had never stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Order;
use crate::error::{Context, Error, Result};
use crate::train::precision::Precision;

/// What must be the same for a run to go on bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The adapter's method and base.
    pub bundle: String,
    /// A hash of the data file.
    pub data: String,
    /// Rows of the data after reading: other tokenizers, lengths or packing give others.
    pub rows: String,
    /// Batch size, in rows.
    pub batch_size: usize,
    /// Batches a step, of each process.
    pub accumulation: usize,
    /// Processes that part a step's batches.
    #[serde(default = "one")]
    pub processes: usize,
    /// The order of rows.
    pub order: Order,
    /// The seed of dropout.
    pub seed: u64,
    /// What is computed in.
    #[serde(default = "float32")]
    pub precision: String,
}

fn float32() -> String {
    Precision::default().to_string()
}

fn one() -> usize {
    1
}

impl Conditions {
    /// The batches of a step, of all processes.
    fn batches(&self) -> usize {
        self.accumulation.saturating_mul(self.processes)
    }

    /// Whether a step has another number of batches.
    #[must_use]
    pub fn differs_in_steps(&self, now: &Self) -> bool {
        self.batches() != now.batches()
    }

    /// Whether a run goes on with another number of processes: with the same steps, or with as many batches for each process.
    fn goes_on_with_others(&self, now: &Self) -> bool {
        self.processes != now.processes && (self.accumulation == now.accumulation || !self.differs_in_steps(now))
    }

    /// Compares the conditions of a checkpoint with those of the run that is to go on from it.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) with the first that differs, and what to do.
    pub fn check(&self, now: &Self) -> Result<()> {
        let text = |order: Order| match order {
            Order::File => "the file's (`no_shuffle`)".to_owned(),
            Order::Shuffled { seed } => format!("shuffled by `seed {seed}`"),
            Order::ByLength { seed } => format!("`group_by_length`, shuffled by `seed {seed}`"),
        };
        let rows = [
            ("the bundle", self.bundle.clone(), now.bundle.clone()),
            ("the data file's contents", self.data.clone(), now.data.clone()),
            ("the rows as they were read (`max_length`, `packing`, `tokenizer`)", self.rows.clone(), now.rows.clone()),
            ("`batch_size`", self.batch_size.to_string(), now.batch_size.to_string()),
            ("`gradient_accumulation_steps`", self.accumulation.to_string(), now.accumulation.to_string()),
            ("the order of rows", text(self.order), text(now.order)),
            ("`seed`", self.seed.to_string(), now.seed.to_string()),
            ("`precision`", self.precision.clone(), now.precision.clone()),
        ];
        let with_others = self.goes_on_with_others(now);
        let is_allowed = |what: &str| with_others && what == "`gradient_accumulation_steps`";
        match rows.into_iter().find(|(what, then, now)| then != now && !is_allowed(what)) {
            None if self.differs_in_steps(now) => {
                let batches = |of: &Self| format!("{} batches a step, in {} processes", of.batches(), of.processes);
                let (before, now) = (batches(self), batches(now));
                tracing::warn!(
                    "the checkpoint's run took {before}; this one takes {now}, from the same place in the data (`gradient_accumulation_steps` can keep a step what it was)"
                );
                Ok(())
            }
            None => Ok(()),
            Some((what, then, now)) => Err(Error::mismatch(what, format!("{then}, as in the checkpoint"), now)
                .with_hint("give the options of the interrupted run; `restart` begins a new one")),
        }
    }
}

/// A hash of a file's bytes; of a folder of pictures or sounds, of what lies in it.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) with the file.
pub fn file_hash(path: &Path) -> Result<String> {
    // What came once cannot be looked at again; the rows that it had have a hash of their own.
    if path == Path::new("-") {
        return Ok("standard input".to_owned());
    }
    if path.is_dir() {
        return folder_hash(path);
    }
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

/// A hash of the names and sizes of what lies in a folder and in the folders in it.
fn folder_hash(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let (mut folders, mut files) = (vec![folder.to_path_buf()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).in_file(&folder)? {
            let path = entry.in_file(&folder)?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        let size = fs::metadata(&file).in_file(&file)?.len();
        hash.update(file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().as_bytes());
        hash.update(size.to_le_bytes());
    }
    Ok(text(&hash.finalize()))
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
