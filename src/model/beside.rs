//! The files that belong to a model and lie beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::error::{Context, Result};
use crate::files::{self, json};

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

    /// The JSON object that a file is, if it is there.
    ///
    /// # Errors
    /// A file that is no JSON, or another value.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some((place, bytes)) = self.bytes(name)? else { return Ok(None) };
        json::object(&bytes, json::CONFIGURATION).map(|names| Some(Value::Object(names))).in_file(place)
    }

    /// The JSON objects in the list that a file is, if it is there.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub fn objects(&self, name: &str) -> Result<Option<Vec<Value>>> {
        let Some((place, bytes)) = self.bytes(name)? else { return Ok(None) };
        json::objects(&bytes, "a list of parts").map(Some).in_file(place)
    }
}
