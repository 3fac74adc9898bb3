//! What is written down while a model and its data get their places.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::leftovers;
use super::unfinished::Unfinished;

/// Says, while a model and its data get their places one after the other, which files of data are those that this model alone may name. If the process ends
/// in between, [`sweep`](super::leftovers::sweep) removes those that the model in that place does not name: the new data, or the old.
#[derive(Debug)]
pub(super) struct Note {
    _file: NamedTempFile,
    _unfinished: Unfinished,
}

impl Note {
    /// Writes one beside a model; none where it cannot be written.
    pub(super) fn of<'a>(model: &Path, data: impl Iterator<Item = &'a PathBuf>) -> Option<Self> {
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let mut text = name(model)?;
        for path in data {
            text = text + "\n" + &name(path)?;
        }
        let prefix = leftovers::prefix();
        let make = || super::temporary(&prefix).suffix(leftovers::NOTE).tempfile_in(super::folder(model));
        let (mut file, unfinished) = Unfinished::made(make, NamedTempFile::path).ok()?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).ok()?;
        Some(Self { _file: file, _unfinished: unfinished })
    }
}
