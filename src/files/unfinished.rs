//! Files and folders that are being written: a signal that ends the process removes them.
//!
//! The signal's thread and the one that writes go on side by side. What is made, and what gets its place, does so while the list of what is unfinished is
//! held: then either the signal comes first, and nothing is made or placed any more, or it finds everything in the list.

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
        let path = absolute(path);
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Self(path)
    }

    /// Makes a file or folder that is being written.
    ///
    /// # Errors
    /// If it is not made.
    pub fn made<T>(make: impl FnOnce() -> std::io::Result<T>, path: impl FnOnce(&T) -> &Path) -> std::io::Result<(T, Self)> {
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        let made = make()?;
        let path = absolute(path(&made));
        paths.insert(path.clone());
        Ok((made, Self(path)))
    }

    /// Gives a file or folder its place by a rename, or another place by an exchange; no signal comes between.
    ///
    /// # Errors
    /// If it does not get it.
    pub fn placed<T>(&self, place: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        placed_for(&[], place).map(|(placed, _)| placed)
    }
}

/// Gives files their places, for which others go: from then on those are what a signal removes.
///
/// # Errors
/// If they do not get them.
pub fn placed_for<T>(gone: &[PathBuf], place: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<(T, Vec<Unfinished>)> {
    let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let placed = place()?;
    let gone: Vec<Unfinished> = gone.iter().map(|path| Unfinished(absolute(path))).collect();
    paths.extend(gone.iter().map(|unfinished| unfinished.0.clone()));
    Ok((placed, gone))
}

/// Makes what may be part of something unfinished: it is not made again once a signal has removed that.
///
/// # Errors
/// If it is not made.
pub fn while_none_ends<T>(make: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    let _paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    make()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A folder that is being filled, under a name that no other has. Dropped before it is [`placed`](Self::placed), it vanishes.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    unfinished: Unfinished,
}

impl Folder {
    /// Makes a folder inside another one.
    ///
    /// # Errors
    /// If that cannot be written to.
    pub fn new(within: &Path) -> Result<Self> {
        fault::point().in_file(within)?;
        let make = || super::temporary_folder(&super::leftovers::prefix()).tempdir_in(within);
        let (folder, unfinished) = Unfinished::made(make, TempDir::path).in_file(within)?;
        Ok(Self { folder, unfinished })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it its place, where nothing stands.
    ///
    /// # Errors
    /// If it does not get it; then it vanishes.
    pub fn placed(self, target: &Path) -> Result<()> {
        let Self { folder, unfinished } = self;
        fault::point().and_then(|()| unfinished.placed(|| std::fs::rename(folder.path(), target))).in_file(target)?;
        let _ = folder.keep();
        Ok(())
    }
}

/// How often a folder is removed into which somebody still writes.
const ATTEMPTS: usize = 1000;

/// Removes everything that is being written: the process is about to end.
pub fn remove_all() {
    // Nobody may make another one, or put a finished one in its place: the list is not given back.
    let paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    for path in paths.iter() {
        for _ in 0..ATTEMPTS {
            let Ok(facts) = path.symlink_metadata() else { break };
            let _ = if facts.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
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
