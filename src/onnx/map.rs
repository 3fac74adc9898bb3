//! Files as memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Context, Result};
use crate::ir::Origin;

/// A file whose bytes are in memory as soon as they are looked at.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    /// Absolute, links not followed.
    path: Arc<Path>,
    bytes: Bytes,
}

impl Mapped {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).in_file(path)?;
        let bytes = map(path).in_file(path)?;
        Ok(Self { path: absolute.into(), bytes })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The place of `part` in the file, if it is a part of it.
    pub(super) fn origin_of(&self, part: &Bytes) -> Option<Origin> {
        let offset = part.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
        let inside = !part.is_empty() && offset.checked_add(part.len())? <= self.bytes.len();
        inside.then(|| Origin { file: Arc::clone(&self.path), offset: u64::try_from(offset).expect("a usize has at most 64 bits") })
    }
}

fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory).into());
    }
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private. Its bytes change only if another process writes into the very file, which
    // programs that make models do not do to a finished one; this program replaces files by renaming and never writes into one that
    // it has read. Whoever cuts the file short meanwhile gets this process a SIGBUS, as with every program that maps weights.
    #[expect(unsafe_code, reason = "mapping a file is the only way to read weights larger than memory")]
    let mapped = unsafe { Mmap::map(&file) }?;
    Ok(Bytes::from_owner(mapped))
}
