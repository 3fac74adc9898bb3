//! Where the data of written tensors goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::proto::{EXTERNAL, TensorProto, entry};
use super::tensor;
use crate::error::{Context, Error, Result};
use crate::files::Staged;
use crate::ir::{DType, Graph, Origin, Tensor};

/// Where the data of initializers goes. Constants of less than 1 KiB, and attributes, are always in the model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Into the model file, which is limited to 2 GB.
    #[default]
    Inline,
    /// Into one new file beside the model.
    External {
        /// Its name.
        file: String,
    },
    /// Tensors that lie in certain files stay there: the model refers to them by locations under which whoever opens it is
    /// [lent](super::Lent) these files. Default values of inputs go into the model file, all others into one new file.
    Refer {
        /// The files, absolute, with their locations.
        files: Vec<(PathBuf, String)>,
        /// The name of the new file, written only if there is something to put into it.
        file: String,
    },
}

/// Whether any weights of a graph that was read from `model` lie in another file.
///
/// # Errors
/// A path without a working folder to start from.
pub fn has_external(graph: &Graph, model: &Path) -> Result<bool> {
    let model = std::path::absolute(model).in_file(model)?;
    Ok(graph.initializers().filter_map(|(_, tensor)| tensor.origin()).any(|origin| *origin.file != *model))
}

/// Tensors of fewer bytes stay in the model file.
const SMALL: usize = 1024;
/// Tensors of at least so many bytes start on a page, so that they can be mapped.
const LARGE: usize = 1 << 20;
const PAGE: u64 = 4096;
/// All others start where vector instructions like it.
const LINE: u64 = 64;

/// Whether a tensor may tell lengths or axes, which ONNX Runtime's shape inference reads before it opens any other file.
fn is_shape(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::I64 && tensor.shape().len() <= 1 && tensor.len() * 8 < LARGE
}

/// The bytes of a tensor that may lie outside of the model file.
pub(super) fn data_of(tensor: &Tensor) -> Option<&Bytes> {
    tensor.bytes().filter(|bytes| bytes.len() >= SMALL && !is_shape(tensor))
}

/// The message of a tensor whose data lies in a file.
pub(super) fn refers(name: &str, tensor: &Tensor, location: &str, offset: u64) -> TensorProto {
    let length = tensor.bytes().map_or(0, Bytes::len).to_string();
    let external_data = vec![entry("location", location), entry("offset", &offset.to_string()), entry("length", &length)];
    TensorProto { external_data, data_location: Some(EXTERNAL), ..tensor::header(name, tensor) }
}

/// What takes the data of tensors that are written.
pub(super) trait Store {
    /// The message of a tensor.
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto>;

    /// The message of an input's default value.
    fn put_default(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        self.put(name, tensor)
    }

    /// The message of a constant of a body.
    fn put_inner(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        self.put(name, tensor)
    }

    /// Whether the data of a message lies where a runtime looks for constants of the outermost graph alone: files in memory, and in a browser every
    /// file.
    fn is_elsewhere(&self, _message: &TensorProto) -> bool {
        false
    }
}

/// A [`Storage`] at work. The model's folder is changed only by [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct Stored {
    storage: Storage,
    folder: PathBuf,
    data: Option<Data>,
    /// Bytes of default values in the model file.
    defaults: usize,
}

/// Default values are in the model file up to so many bytes in all: a message is limited to 2 GB.
const MOST_DEFAULTS: usize = 1 << 30;

/// Up to so many bytes a constant of a body stays inside, where every runtime finds it.
const SMALL_INSIDE: usize = 1 << 16;

/// A data file being written.
#[derive(Debug)]
struct Data {
    file: Staged,
    end: u64,
    /// Where each piece of memory was written, so that weights with two names are written once.
    written: HashMap<(usize, usize), u64>,
}

impl Stored {
    pub(super) fn new(path: &Path, storage: &Storage) -> Self {
        Self { storage: storage.clone(), folder: path.parent().map(Path::to_path_buf).unwrap_or_default(), data: None, defaults: 0 }
    }

    /// Puts the data into its place.
    pub(super) fn finish(self) -> Result<()> {
        self.data.map_or(Ok(()), |data| data.file.finish())
    }

    fn append(&mut self, file: &str, bytes: &Bytes) -> Result<u64> {
        let data = match &mut self.data {
            Some(data) => data,
            None => self.data.insert(Data { file: Staged::new(&self.folder.join(file))?, end: 0, written: HashMap::new() }),
        };
        data.append(bytes)
    }
}

impl Store for Stored {
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        let Some(bytes) = data_of(tensor) else { return Ok(tensor::to_inline(name, tensor)) };
        let file = match &self.storage {
            Storage::Inline => return Ok(tensor::to_inline(name, tensor)),
            Storage::External { file } => file.clone(),
            Storage::Refer { files, file } => {
                let lent = |origin: &Origin| files.iter().find(|(path, _)| *path == *origin.file).map(|(_, location)| location);
                if let Some((location, origin)) = tensor.origin().and_then(|origin| Some((lent(origin)?, origin))) {
                    return Ok(refers(name, tensor, location, origin.offset));
                }
                file.clone()
            }
        };
        let offset = self.append(&file, bytes)?;
        Ok(refers(name, tensor, &file, offset))
    }

    fn put_default(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        let all = self.defaults.saturating_add(tensor.bytes().map_or(0, Bytes::len));
        if !matches!(self.storage, Storage::Refer { .. }) || all > MOST_DEFAULTS {
            return self.put(name, tensor);
        }
        self.defaults = all;
        Ok(tensor::to_inline(name, tensor))
    }

    fn put_inner(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        let is_small = tensor.bytes().is_some_and(|bytes| bytes.len() <= SMALL_INSIDE);
        let is_whole = matches!(self.storage, Storage::External { .. });
        if is_small && is_whole { Ok(tensor::to_inline(name, tensor)) } else { self.put(name, tensor) }
    }

    fn is_elsewhere(&self, message: &TensorProto) -> bool {
        let location = message.external_data.iter().find(|entry| entry.key() == "location");
        match &self.storage {
            Storage::Inline => false,
            Storage::External { .. } => location.is_some(),
            Storage::Refer { files, .. } => location.is_some_and(|entry| files.iter().any(|(_, location)| location == entry.value())),
        }
    }
}

impl Data {
    fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let memory = (bytes.as_ptr().addr(), bytes.len());
        if let Some(&offset) = self.written.get(&memory) {
            return Ok(offset);
        }
        let start = self.end.next_multiple_of(if bytes.len() >= LARGE { PAGE } else { LINE });
        let gap = usize::try_from(start - self.end).expect("less than a page");
        self.file.write(&vec![0; gap])?;
        self.file.write(bytes)?;
        let length = u64::try_from(bytes.len()).expect("a usize has at most 64 bits");
        self.end = start.checked_add(length).ok_or_else(|| Error::invalid("a data file of more than 2^64 bytes"))?;
        self.written.insert(memory, start);
        Ok(start)
    }
}
