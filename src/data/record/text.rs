//! Text that lies in a file, or was made of one.

use bytes::Bytes;

use crate::error::{Error, Result};

/// A text: in the file's own bytes, which need not be in memory, or decoded from them.
pub(super) enum Text {
    Stored(Bytes),
    Decoded(String),
}

impl Text {
    /// Bytes that were UTF-8 when they were looked at.
    pub(super) fn stored(bytes: Bytes) -> Self {
        Self::Stored(bytes)
    }

    /// Text of its own.
    pub(super) fn of(text: String) -> Self {
        Self::Decoded(text)
    }

    /// The text.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) if somebody has written into the file meanwhile.
    pub(super) fn read(&self) -> Result<&str> {
        match self {
            Self::Stored(bytes) => std::str::from_utf8(bytes).map_err(|error| Error::format("UTF-8 text any more", error)),
            Self::Decoded(text) => Ok(text),
        }
    }
}
