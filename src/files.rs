//! Files that appear complete or not at all, and files as memory.

pub(crate) mod fault;
pub mod inside;
mod kind;
pub mod leftovers;
pub mod near;
mod staged_folder;
pub mod unfinished;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use tempfile::{NamedTempFile, TempPath};

use crate::error::{Context, Result};
use unfinished::Unfinished;

pub use kind::Kind;
pub use staged_folder::StagedFolder;

/// A file being written under another name in the folder where it will stand. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    _unfinished: Unfinished,
}

impl Staged {
    /// Starts a file that will stand at `path`.
    ///
    /// # Errors
    /// If the folder is not there or cannot be written to.
    pub fn new(path: &Path) -> Result<Self> {
        fault::point().in_file(path)?;
        let file = temporary(&leftovers::prefix()).tempfile_in(folder(path)).in_file(path)?;
        Ok(Self { path: path.to_owned(), _unfinished: Unfinished::new(file.path()), file: BufWriter::new(file) })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        fault::point().and_then(|()| self.file.write_all(bytes)).in_file(&self.path)
    }

    /// Puts the file in its place, over one that stands there.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(self) -> Result<()> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error).in_file(&self.path)?;
        file.as_file().sync_all().in_file(&self.path)?;
        place(file.into_temp_path(), &self.path)
    }
}

/// Writes a whole file.
///
/// # Errors
/// If the folder is not there, or the disk is full or fails.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut staged = Staged::new(path)?;
    staged.write(bytes)?;
    staged.finish()
}

fn place(file: TempPath, path: &Path) -> Result<()> {
    fault::point().in_file(path)?;
    file.persist(path).map_err(|error| error.error).in_file(path)?;
    sync_folder(folder(path));
    Ok(())
}

/// New names, too, must survive a crash. Where folders cannot be opened there is nothing to be done about it.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Files of the ordinary permissions, not of the private ones that temporary files have.
fn temporary(prefix: &str) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    builder
}

/// The folder that a file stands in.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The bytes of a file, in memory as soon as they are looked at.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) with the file.
pub fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).in_file(path)?;
    let facts = file.metadata().in_file(path)?;
    if facts.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)).in_file(path);
    }
    if facts.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private. Its bytes change only if another process writes into the very file, which
    // programs that make models do not do to a finished one; this program replaces files by renaming and never writes into one that
    // it has read. Whoever cuts the file short meanwhile gets this process a SIGBUS, as with every program that maps weights; the command
    // line ends with an error then.
    #[expect(unsafe_code, reason = "mapping a file is the only way to read weights larger than memory")]
    let mapped = unsafe { Mmap::map(&file) }.in_file(path)?;
    Ok(Bytes::from_owner(mapped))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_dropped_file_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        Staged::new(&folder.path().join("a"))?.write(b"half")?;
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        Ok(())
    }
}
