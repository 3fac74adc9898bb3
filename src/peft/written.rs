//! What an adapter in a bundle was when it was written, so that a bit that flipped since then is told from one that somebody meant.
//!
//! The hash is of the tensors, not of the file: one that another program saved again with a longer header is the same adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::names::{CONFIG_FILE, ENCODER_FILE, FACTORS_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::files::{self, inside};
use crate::ir::Tensor;
use crate::safetensors;

/// The file beside an adapter that says what it was.
pub const FILE: &str = ".adapter-written.json";

/// The files that are others than were written, with their hashes, of which was told already.
static TOLD: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());

/// What somebody else may do to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// Write others in their place.
    Replace,
    /// Nothing.
    Keep,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    others: Others,
    /// The hashes of each file, any of which it may have: while it is replaced, two.
    files: BTreeMap<String, Vec<String>>,
}

impl Written {
    fn read(folder: &Path) -> Option<Self> {
        let path = folder.join(FILE);
        inside::facts(&path).ok()??;
        serde_json::from_slice(&files::read(&path).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        if Self::read(folder).as_ref() == Some(self) {
            return Ok(());
        }
        let text = serde_json::to_vec(self).map_err(|error| Error::format("JSON", error))?;
        files::replace(&folder.join(FILE), &text)
    }
}

/// Notes what an adapter's folder holds now.
///
/// # Errors
/// If a file cannot be read or written.
pub fn note(folder: &Path, others: Others) -> Result<()> {
    let config = (others == Others::Keep).then_some(CONFIG_FILE);
    let mut files = BTreeMap::new();
    for name in [WEIGHTS_FILE, ENCODER_FILE, FACTORS_FILE].into_iter().chain(config) {
        let path = folder.join(name);
        if inside::facts(&path)?.is_some() {
            files.insert(name.to_owned(), vec![of_file(&path)?]);
        }
    }
    Written { others, files }.write(folder)
}

/// Notes that files are about to be replaced by those of another folder: until [`note`] says that it is done, either may be there.
///
/// # Errors
/// As [`note`].
pub fn expect(folder: &Path, from: &Path, names: &[&str]) -> Result<()> {
    let Some(mut written) = Written::read(folder) else { return Ok(()) };
    for name in names.iter().filter(|name| **name != CONFIG_FILE) {
        let known = written.files.entry((*name).to_owned()).or_default();
        let path = folder.join(name);
        // What is no adapter any more is replaced by one.
        let now = if inside::facts(&path)?.is_some() { of_file(&path).ok() } else { None };
        known.retain(|hash| now.as_ref() == Some(hash));
        known.push(of_file(&from.join(name))?);
    }
    written.write(folder)
}

/// Compares a file of an adapter with what was written: of one that others may replace it says so, another one is refused.
///
/// # Errors
/// A file that is another one, and must not be.
pub(super) fn check(path: &Path, hash: impl FnOnce() -> String) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let Some(written) = Written::read(folder) else { return Ok(()) };
    let Some(known) = written.files.get(&*name.to_string_lossy()) else { return Ok(()) };
    let found = hash();
    if known.contains(&found) {
        return Ok(());
    }
    if written.others == Others::Replace {
        if !TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert((path.to_owned(), found)) {
            return Ok(());
        }
        // Where nobody reads warnings, too: the work goes on with numbers that may be damaged.
        tracing::error!("{}: the tensors are not what was written here: somebody changed the file, or it is damaged", path.display());
        return Ok(());
    }
    let error = Error::mismatch("hash", known.join(" or "), found).in_file(path);
    Err(error.with_hint("the file was damaged or changed after `inject` wrote it: make the bundle anew, or start from a checkpoint"))
}

/// Compares the configuration of an adapter's folder, where there is one, with what was written.
///
/// # Errors
/// As those of the tensors; a file that cannot be read.
pub fn check_configuration(folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG_FILE);
    if !path.exists() {
        return Ok(());
    }
    let text = files::read(&path)?;
    check(&path, || of_text(&text))
}

/// The hash of tensors: XXH3 (128 bits) of their names, types, shapes and numbers, in hexadecimal.
pub(super) fn of_tensors(tensors: &IndexMap<String, Tensor>) -> String {
    let mut hash = Xxh3Default::new();
    for (name, tensor) in tensors {
        let what = format!("{name:?} {:?} {:?} ", tensor.dtype(), tensor.shape());
        hash.update(what.as_bytes());
        hash.update(tensor.bytes().map_or(&[][..], |bytes| bytes));
    }
    format!("{:032x}", hash.digest128())
}

/// The hash of a file that people may read.
pub(super) fn of_text(text: &[u8]) -> String {
    format!("{:032x}", xxh3_128(text))
}

fn of_file(path: &Path) -> Result<String> {
    let is_text = path.extension().is_some_and(|ending| ending == "json");
    if is_text { Ok(of_text(&files::read(path)?)) } else { Ok(of_tensors(&safetensors::read(path)?)) }
}
