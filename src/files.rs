//! Files that appear complete or not at all, and files as memory.

pub(crate) mod fault;
pub mod inside;
pub mod json;
mod kind;
pub mod leftovers;
pub mod near;
mod note;
mod staged_folder;
pub mod unfinished;
#[cfg(feature = "runtime")]
pub(crate) mod wall;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use tempfile::{NamedTempFile, TempPath};

use crate::error::{Context, Error, Result};
use crate::num;
use unfinished::Unfinished;

pub use kind::Kind;
use note::Note;
pub use staged_folder::StagedFolder;

/// A file being written under another name in the folder where it will stand. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    unfinished: Unfinished,
}

impl Staged {
    /// Starts a file that will stand at `path`.
    ///
    /// # Errors
    /// If the folder is not there or cannot be written to.
    pub fn new(path: &Path) -> Result<Self> {
        fault::point().in_file(path)?;
        let make = || temporary(&leftovers::prefix()).tempfile_in(folder(path));
        let (file, unfinished) = Unfinished::made(make, NamedTempFile::path).in_file(path)?;
        Ok(Self { path: path.to_owned(), unfinished, file: BufWriter::new(file) })
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
        let Synced { path, file, unfinished } = self.synced()?;
        fault::point().in_file(&path)?;
        unfinished.placed(|| file.persist(&path).map_err(|error| error.error)).in_file(&path)?;
        sync_folder(folder(&path));
        Ok(())
    }

    /// Puts the file in its place right behind another one that it refers to, and removes files that nothing refers to any more. The other one goes with
    /// it if it does not get its place, unless it took another's.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish_behind(self, data: Self, gone: &[PathBuf]) -> Result<()> {
        let (data, own) = (data.synced()?, self.synced()?);
        fault::point().in_file(&data.path)?;
        let note = Note::of(&own.path, std::iter::once(&data.path).chain(gone));
        let mut at = &data.path;
        let place = || {
            let is_new = at.symlink_metadata().is_err();
            data.file.persist(&data.path).map_err(|error| error.error)?;
            at = &own.path;
            let placed = fault::point().and_then(|()| own.file.persist(&own.path).map_err(|error| error.error));
            if placed.is_err() && is_new {
                let _ = std::fs::remove_file(&data.path);
            }
            placed
        };
        let placed = unfinished::placed_for(gone, place);
        let ((), gone_files) = placed.in_file(at)?;
        sync_folder(folder(&own.path));
        for path in gone {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!("{}: what nothing refers to any more could not be removed: {error}", path.display());
            }
        }
        drop((gone_files, note));
        Ok(())
    }

    /// Brings the bytes to the disk.
    fn synced(self) -> Result<Synced> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error).in_file(&self.path)?;
        file.as_file().sync_all().in_file(&self.path)?;
        Ok(Synced { path: self.path, file: file.into_temp_path(), unfinished: self.unfinished })
    }
}

/// A file that is complete, and lacks its place.
struct Synced {
    path: PathBuf,
    file: TempPath,
    unfinished: Unfinished,
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

/// New names, too, must survive a crash. Where folders cannot be opened there is nothing to be done about it.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Files of the permissions that others get, not of the private ones that temporary files have: what the user's mask leaves of them.
fn temporary(prefix: &str) -> tempfile::Builder<'_, 'static> {
    with_mode(prefix, 0o666)
}

/// The same for folders.
fn temporary_folder(prefix: &str) -> tempfile::Builder<'_, 'static> {
    with_mode(prefix, 0o777)
}

fn with_mode(prefix: &str, mode: u32) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Makes a folder and those above it, unless they are there. A signal that ends the process finds what was made of what is unfinished.
///
/// # Errors
/// If one cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    unfinished::while_none_ends(|| std::fs::create_dir_all(path)).in_file(path)
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
    // Opening a pipe would wait for its writer.
    if path.metadata().is_ok_and(|facts| !facts.is_file() && !facts.is_dir()) {
        return Err(inside::is_no_file(path));
    }
    File::open(path).map_err(Error::from).and_then(|file| map_open(&file)).in_file(path)
}

/// The bytes of an open file, as [`map`] gives them.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io).
pub fn map_open(file: &File) -> Result<Bytes> {
    let facts = file.metadata()?;
    if facts.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory).into());
    }
    if facts.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private. Its bytes change only if another process writes into the very file, which
    // programs that make models do not do to a finished one; this program replaces files by renaming and never writes into one that
    // it has read. Whoever cuts the file short meanwhile gets this process a SIGBUS, as with every program that maps weights; the command
    // line ends with an error then.
    #[expect(unsafe_code, reason = "mapping a file is the only way to read weights larger than memory")]
    let mapped = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(mapped))
}

/// Whether a file has other names beside this one (hard links).
#[must_use]
pub fn has_several_names(path: &Path) -> bool {
    #[cfg(unix)]
    return path.metadata().is_ok_and(|facts| std::os::unix::fs::MetadataExt::nlink(&facts) > 1);
    #[cfg(not(unix))]
    return path.exists();
}

/// The most bytes of a file that is read as a whole: configurations, tokenizers, records.
const MOST_BYTES: u64 = 256 << 20;

/// The bytes of a small file.
///
/// # Errors
/// As [`ordinary`]; a file of more than 256 MB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    ordinary(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).in_file(path)?;
    if num::wide(bytes.len()) <= MOST_BYTES {
        return Ok(bytes);
    }
    Err(Error::mismatch("bytes of a file that is read as a whole", format!("{MOST_BYTES} at most"), "more").in_file(path))
}

/// The text of a small file.
///
/// # Errors
/// As [`read`]; bytes that are not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|error| Error::format("UTF-8", error).in_file(path))
}

/// Opens a file that is read to its end: a pipe may have none.
///
/// # Errors
/// What is neither a file nor a link to one; if it cannot be opened.
pub fn ordinary(path: &Path) -> Result<File> {
    if path.metadata().in_file(path)?.is_file() { File::open(path).in_file(path) } else { Err(inside::is_no_file(path)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn two_files_get_their_places_together_or_neither_does() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let names = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            Ok::<_, Error>(names)
        };
        let pair = || {
            let (mut model, mut data) = (Staged::new(&path("m"))?, Staged::new(&path("m.2.data"))?);
            model.write(b"new")?;
            data.write(b"new")?;
            model.finish_behind(data, &[path("m.data")])
        };
        for name in ["m", "m.data"] {
            fs::write(path(name), "old")?;
        }
        // Steps 1 to 4 make and write the two; the last two put them in their places.
        for step in 1..=6 {
            fault::test::at(step);
            assert!(pair().is_err(), "step {step}");
            assert_eq!((names()?, fs::read(path("m"))?), (vec!["m".into(), "m.data".into()], b"old".to_vec()), "step {step}");
        }
        pair()?;
        assert_eq!((names()?, fs::read(path("m"))?), (vec!["m".into(), "m.2.data".into()], b"new".to_vec()));
        Ok(())
    }

    #[test]
    fn a_dropped_file_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        Staged::new(&folder.path().join("a"))?.write(b"half")?;
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        Ok(())
    }
}
