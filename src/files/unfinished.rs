//! Files and folders that are being written: a signal that ends the process removes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::fault;
use crate::error::{Context, Result};

static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A path that is removed if a signal ends the process before this is dropped.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Counts a file or folder among those that are being written.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Self(path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A folder that is being filled, under a name that no other has. Dropped before it is [`finished`](Self::finished), it vanishes.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    _unfinished: Unfinished,
}

impl Folder {
    /// Makes a folder inside another one.
    ///
    /// # Errors
    /// If that cannot be written to.
    pub fn new(within: &Path) -> Result<Self> {
        fault::point().in_file(within)?;
        let folder = tempfile::Builder::new().prefix(&super::leftovers::prefix()).tempdir_in(within).in_file(within)?;
        Ok(Self { _unfinished: Unfinished::new(folder.path()), folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Lets it stay: it has its place.
    pub fn finished(self) {
        let _ = self.folder.keep();
    }
}

/// Removes everything that is being written: the process is about to end.
pub fn remove_all() {
    // Nobody may put a finished file in its place meanwhile: the lock is not given back.
    let paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    for path in paths.iter() {
        let is_folder = path.symlink_metadata().is_ok_and(|facts| facts.is_dir());
        let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    std::mem::forget(paths);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_not_counted() {
        let path = Path::new("/nowhere/at/all/unfinished");
        let counted = || PATHS.lock().unwrap_or_else(PoisonError::into_inner).contains(path);
        let unfinished = Unfinished::new(path);
        assert!(counted());
        drop(unfinished);
        assert!(!counted());
    }
}
