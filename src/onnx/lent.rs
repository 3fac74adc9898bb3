//! Models whose weights lie elsewhere: files under the locations by which a model refers to them.

use std::path::Path;

use bytes::Bytes;

use super::map::Mapped;
use crate::error::Result;

/// Bytes that a model refers to as a file beside it, wherever they are.
#[derive(Clone, Debug)]
pub struct Lent {
    pub(super) location: String,
    pub(super) mapped: Mapped,
}

impl Lent {
    /// The file `path`, mapped, as what a model calls `location`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(location: impl Into<String>, path: &Path) -> Result<Self> {
        Ok(Self { location: location.into(), mapped: Mapped::open(path)? })
    }

    /// The location by which models refer to it.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        self.mapped.bytes()
    }

    /// The file, absolute, links not followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mapped.path()
    }
}
