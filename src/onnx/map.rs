//! Files as memory.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Context, Result};
use crate::files;
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
        let bytes = files::map(path)?;
        Ok(Self { path: absolute.into(), bytes })
    }

    /// Bytes in memory that go by the name of a file.
    pub(super) fn of(path: Arc<Path>, bytes: Bytes) -> Self {
        Self { path, bytes }
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
