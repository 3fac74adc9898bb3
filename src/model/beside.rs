//! The files that belong to a model and lie beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// The files that belong to a model: those beside its own, or those that came with it in memory.
#[derive(Clone, Debug)]
pub enum Beside {
    /// What lies near the model's file.
    Near(PathBuf),
    /// Files by name, as `config.json`.
    Given(BTreeMap<String, Bytes>),
}

/// A model that came alone.
impl Default for Beside {
    fn default() -> Self {
        Self::Given(BTreeMap::new())
    }
}

impl Beside {
    /// The files near a model's file.
    #[must_use]
    pub fn near(model: &Path) -> Self {
        Self::Near(model.to_path_buf())
    }

    /// A file, if it is there: where it lies, and what is in it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Option<(PathBuf, Bytes)>> {
        match self {
            Self::Near(model) => {
                let Some(file) = files::near::file(model, name) else { return Ok(None) };
                let bytes = files::read(&file)?;
                Ok(Some((file, bytes.into())))
            }
            Self::Given(given) => Ok(given.get(name).map(|bytes| (PathBuf::from(name), bytes.clone()))),
        }
    }

    /// A JSON file, if it is there.
    ///
    /// # Errors
    /// A file that is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some((place, bytes)) = self.bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::format("JSON", error).in_file(place))
    }
}
