//! Models whose weights lie elsewhere: files under the locations by which a model refers to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::map::Mapped;
use super::proto::TensorProto;
use super::storage::{Store, refers};
use super::{tensor, write};
use crate::error::{Context, Result};
use crate::ir::{Graph, Tensor};

/// Bytes that a model refers to as a file beside it, wherever they are.
#[derive(Clone, Debug)]
pub struct Lent {
    location: String,
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

/// A model as a runtime opens it: its file, or its message in memory, and what stands in for the files that it refers to.
#[derive(Clone, Debug)]
pub struct Runnable {
    /// The model's file; of a message in memory, what errors name.
    pub path: PathBuf,
    /// The message to open instead of the file.
    pub message: Option<Bytes>,
    /// What stands in for files; it must live as long as whoever reads the model.
    pub lent: Vec<Lent>,
}

impl From<&Path> for Runnable {
    fn from(path: &Path) -> Self {
        Self { path: path.to_path_buf(), message: None, lent: vec![] }
    }
}

impl From<&PathBuf> for Runnable {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl Runnable {
    /// A graph in memory. Its weights are not copied; `path` is what errors name.
    ///
    /// # Errors
    /// A graph that cannot be written.
    pub fn of(graph: &Graph, path: &Path) -> Result<Self> {
        let mut store = Memory::default();
        let message = write::model(graph, &mut store).in_file(path)?.encode_to_vec();
        Ok(Self { path: path.to_path_buf(), message: Some(message.into()), lent: store.lent })
    }
}

/// Where the tensors of a message in memory are: each that is not small is a file of its own by name.
#[derive(Debug, Default)]
struct Memory {
    lent: Vec<Lent>,
}

impl Store for Memory {
    fn put(&mut self, name: &str, value: &Tensor) -> Result<TensorProto> {
        let Some(bytes) = super::storage::data_of(value) else { return Ok(tensor::to_inline(name, value)) };
        let location = format!("memory/{}", self.lent.len());
        let message = refers(name, value, &location, 0);
        self.lent.push(Lent { location, mapped: Mapped::of(Arc::from(Path::new(name)), bytes.clone()) });
        Ok(message)
    }

    fn is_lent(&self, message: &TensorProto) -> bool {
        !message.external_data.is_empty()
    }
}
