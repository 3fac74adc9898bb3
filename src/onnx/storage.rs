//! Where the data of written tensors goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

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

/// A [`Storage`] at work.
#[derive(Debug)]
pub(super) struct Stored {
    storage: Storage,
    /// None: in memory.
    folder: Option<PathBuf>,
    data: Option<Data>,
    /// Whether several models share the data file.
    is_shared: bool,
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
    to: Sink,
    end: u64,
    /// Where each piece of memory was written, so that weights with two names, or of two models, are written once. The memory is kept: another
    /// tensor must not come to lie there.
    written: HashMap<(usize, usize), (u64, Bytes)>,
    /// The same by their bytes' hash, of models that share the file: each may have its weights from a file of its own.
    shared: Option<HashMap<(u128, usize), u64>>,
}

/// Where the bytes of a data file go.
#[derive(Debug)]
enum Sink {
    File(Staged),
    Memory(Vec<u8>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Memory(memory) => {
                memory.try_reserve(bytes.len()).map_err(|why| Error::invalid(format!("no memory for the weights: {why}")))?;
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

impl Stored {
    pub(super) fn new(path: &Path, storage: &Storage) -> Self {
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self { storage: storage.clone(), folder: Some(folder), data: None, is_shared: false, defaults: 0 }
    }

    /// For several models that share a data file, in a folder or in memory.
    pub(super) fn shared(folder: Option<PathBuf>, file: &str) -> Self {
        Self { storage: Storage::External { file: file.to_owned() }, folder, data: None, is_shared: true, defaults: 0 }
    }

    /// Puts the data into its place; gives it if it is in memory.
    pub(super) fn finish(self) -> Result<Option<Vec<u8>>> {
        match self.data.map(|data| data.to) {
            None => Ok(None),
            Some(Sink::File(file)) => file.finish().map(|()| None),
            Some(Sink::Memory(bytes)) => Ok(Some(bytes)),
        }
    }

    /// The data file, which has no place yet; none where the data is in memory.
    pub(super) fn into_data(self) -> Option<Staged> {
        match self.data?.to {
            Sink::File(file) => Some(file),
            Sink::Memory(_) => None,
        }
    }

    fn append(&mut self, file: &str, bytes: &Bytes) -> Result<u64> {
        let data = match &mut self.data {
            Some(data) => data,
            None => self.data.insert(Data::start(self.folder.as_deref(), file, self.is_shared)?),
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
    fn start(folder: Option<&Path>, file: &str, is_shared: bool) -> Result<Self> {
        let to = match folder {
            Some(folder) => Sink::File(Staged::new(&folder.join(file))?),
            None => Sink::Memory(vec![]),
        };
        Ok(Self { to, end: 0, written: HashMap::new(), shared: is_shared.then(HashMap::new) })
    }

    fn append(&mut self, bytes: &Bytes) -> Result<u64> {
        let memory = (bytes.as_ptr().addr(), bytes.len());
        if let Some((offset, _)) = self.written.get(&memory) {
            return Ok(*offset);
        }
        let content = self.shared.as_ref().map(|_| (xxh3_128(bytes), bytes.len()));
        if let Some(offset) = content.and_then(|content| self.shared.as_ref()?.get(&content)) {
            return Ok(*offset);
        }
        let start = self.end.next_multiple_of(if bytes.len() >= LARGE { PAGE } else { LINE });
        let gap = usize::try_from(start - self.end).expect("less than a page");
        self.to.write(&vec![0; gap])?;
        self.to.write(bytes)?;
        let length = u64::try_from(bytes.len()).expect("a usize has at most 64 bits");
        self.end = start.checked_add(length).ok_or_else(|| Error::invalid("a data file of more than 2^64 bytes"))?;
        self.written.insert(memory, (start, bytes.clone()));
        if let Some((shared, content)) = self.shared.as_mut().zip(content) {
            shared.insert(content, start);
        }
        Ok(start)
    }
}
