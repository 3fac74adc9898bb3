//! A model and its data file take the place of others of the same names together: whoever looks meanwhile finds the old pair or the new one.

use std::path::{Path, PathBuf};

use super::storage::Storage;
use crate::error::{Context, Result};
use crate::files::{self, StagedFolder, leftovers};

/// How a pair is put into its place.
#[derive(Debug)]
pub(super) enum Way {
    /// As single files, data first: there is nothing yet that the data could be torn from.
    Single,
    /// In a new folder that changes places with the old one, which has nothing but the pair.
    Folder(StagedFolder),
    /// The data under a name that is free; the old model's data files go when the new model is there.
    Beside {
        /// Where the data goes.
        storage: Storage,
        /// The old model's data.
        old: Vec<PathBuf>,
    },
}

impl Way {
    pub(super) fn choose(path: &Path, storage: &Storage) -> Result<Self> {
        let Storage::External { file } = storage else { return Ok(Self::Single) };
        let (replaces, folder) = (path.exists(), files::folder(path));
        let is_taken = folder.join(file).symlink_metadata().is_ok_and(|facts| !facts.is_dir());
        if !replaces && !is_taken {
            return Ok(Self::Single);
        }
        let folder = folder.canonicalize().in_file(path)?;
        let name = path.file_name().unwrap_or_default();
        if replaces
            && is_only(&folder, &[name, file.as_ref()])
            && let Ok(staged) = StagedFolder::new(&folder)
        {
            return Ok(Self::Folder(staged));
        }
        let old = data_of(path, &folder);
        let (stem, ending) = file.rsplit_once('.').unwrap_or((file, "data"));
        let names = std::iter::once(file.clone()).chain((2..).map(|number| format!("{stem}.{number}.{ending}")));
        // A numbered one that the old model does not refer to is what a command that was killed left.
        let is_free = |name: &String| {
            let path = folder.join(name);
            path.symlink_metadata().map_or(true, |facts| facts.is_file() && *name != *file && !old.contains(&path))
        };
        let free = { names }.find(is_free).expect("numbers do not end");
        if !replaces {
            tracing::warn!(
                "{} is there and belongs to no model of that name: the weights go to {free} beside it",
                folder.join(file).display()
            );
        }
        Ok(Self::Beside { storage: Storage::External { file: free }, old })
    }

    /// The path and the storage to write with.
    pub(super) fn target(&self, path: &Path, storage: &Storage) -> (PathBuf, Storage) {
        match self {
            Self::Single => (path.to_path_buf(), storage.clone()),
            Self::Folder(staged) => (staged.path().join(path.file_name().unwrap_or_default()), storage.clone()),
            Self::Beside { storage, .. } => (path.to_path_buf(), storage.clone()),
        }
    }

    /// The files that go when the new ones are there.
    pub(super) fn gone(&self) -> &[PathBuf] {
        if let Self::Beside { old, .. } = self { old } else { &[] }
    }

    pub(super) fn finish(self) -> Result<()> {
        if let Self::Folder(staged) = self { staged.finish() } else { Ok(()) }
    }
}

/// Whether a folder has no other files than these, and no process of ours or above stands in it.
fn is_only(folder: &Path, names: &[&std::ffi::OsStr]) -> bool {
    leftovers::sweep(folder);
    let Ok(mut entries) = folder.read_dir() else { return false };
    let stands_in_it = std::env::current_dir().is_ok_and(|current| current.starts_with(folder));
    let is_one = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| names.contains(&&*entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()))
    };
    !stands_in_it && entries.all(is_one)
}

/// The data files of a model that were written for it: their names begin with the model's.
fn data_of(model: &Path, folder: &Path) -> Vec<PathBuf> {
    let Ok(graph) = super::read(model) else { return vec![] };
    let stem = format!("{}.", model.file_name().unwrap_or_default().to_string_lossy());
    let own = |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&stem));
    let files = graph.initializers().filter_map(|(_, tensor)| tensor.origin()).map(|origin| origin.file.to_path_buf());
    let mut files: Vec<PathBuf> = files.filter(|file| own(file)).filter_map(|file| Some(folder.join(file.file_name()?))).collect();
    files.sort();
    files.dedup();
    files
}
