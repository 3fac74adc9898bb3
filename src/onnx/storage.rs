//! Where the data of written tensors goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indexmap::IndexMap;

use super::proto::{EXTERNAL, TensorProto};
use super::tensor;
use super::write::entry;
use crate::error::{Context, Error, Result};
use crate::files::{Staged, link_or_copy};
use crate::ir::{DType, Graph, Origin, Tensor};

/// Where the data of initializers goes. Constants of less than 1 KiB, but for those of live files, and attributes, are always in the model file.
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
    /// Tensors that lie in a file already stay there. If that file is not in the model's folder, a hard link to it is put there (a copy,
    /// where that is impossible): `base.model.onnx` for `links` = `base` and a tensor inside `model.onnx`. All others go
    /// into one new file.
    Share {
        /// What the names of the links start with.
        links: String,
        /// The name of the new file, written only if there is something to put into it.
        file: String,
        /// A file that will change: the graph refers to its tensors however small they are.
        live: Option<PathBuf>,
    },
}

impl Storage {
    fn is_live(&self, tensor: &Tensor) -> bool {
        match (self, tensor.origin()) {
            (Self::Share { live: Some(file), .. }, Some(origin)) => *origin.file == **file,
            _ => false,
        }
    }
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

/// What takes the data of tensors that are written.
pub(super) trait Store {
    /// The message of a tensor.
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto>;
}

/// A [`Storage`] at work. The model's folder is changed only by [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct Stored {
    storage: Storage,
    /// The model's folder, without links, and the model's own name.
    folder: PathBuf,
    model: PathBuf,
    data: Option<Data>,
    /// The location of each file that is referred to; `Some` with the source where it must be linked first.
    shared: IndexMap<PathBuf, Shared>,
}

#[derive(Debug)]
struct Shared {
    location: String,
    linked: bool,
}

/// A data file being written.
#[derive(Debug)]
struct Data {
    file: Staged,
    end: u64,
    /// Where each piece of memory was written, so that weights with two names are written once.
    written: HashMap<(usize, usize), u64>,
}

impl Stored {
    pub(super) fn new(path: &Path, storage: &Storage) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().in_file(folder)?;
        let model = folder.join(path.file_name().unwrap_or_default());
        Ok(Self { storage: storage.clone(), folder, model, data: None, shared: IndexMap::new() })
    }

    /// Puts links and data into their places.
    pub(super) fn finish(self) -> Result<()> {
        for (source, shared) in self.shared.iter().filter(|(_, shared)| shared.linked) {
            link_or_copy(source, &self.folder.join(&shared.location))?;
        }
        self.data.map_or(Ok(()), |data| data.file.finish())
    }

    fn append(&mut self, file: &str, bytes: &bytes::Bytes) -> Result<(String, u64)> {
        let data = match &mut self.data {
            Some(data) => data,
            None => self.data.insert(Data { file: Staged::new(&self.folder.join(file))?, end: 0, written: HashMap::new() }),
        };
        Ok((file.to_owned(), data.append(bytes)?))
    }

    /// The location of a tensor's file as seen from the model's folder.
    fn share(&mut self, origin: &Origin, links: &str, file: &str) -> Result<(String, u64)> {
        if let Some(shared) = self.shared.get(&*origin.file) {
            return Ok((shared.location.clone(), origin.offset));
        }
        let target = origin.file.canonicalize().in_file(&*origin.file)?;
        let replaced = target == self.model || target == self.folder.join(file);
        let inside = target.strip_prefix(&self.folder).ok().filter(|_| !replaced).and_then(Path::to_str);
        let shared = match inside {
            Some(location) => Shared { location: location.replace(std::path::MAIN_SEPARATOR, "/"), linked: false },
            None => Shared { location: self.link_name(links, &origin.file), linked: true },
        };
        let location = shared.location.clone();
        self.shared.insert(origin.file.to_path_buf(), shared);
        Ok((location, origin.offset))
    }

    /// `base.model.onnx`, or `base.2.model.onnx` if another folder's `model.onnx` has the first name.
    fn link_name(&self, links: &str, source: &Path) -> String {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let names = std::iter::once(format!("{links}.{name}")).chain((2..).map(|number| format!("{links}.{number}.{name}")));
        let taken = |name: &String| self.shared.values().any(|shared| shared.location == *name);
        { names }.find(|name| !taken(name)).expect("numbers do not end")
    }
}

impl Store for Stored {
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        let is_live = self.storage.is_live(tensor);
        let is_data = |bytes: &Bytes| bytes.len() >= SMALL && !is_shape(tensor);
        let Some(bytes) = tensor.bytes().filter(|bytes| is_data(bytes) || is_live) else {
            return Ok(tensor::to_inline(name, tensor));
        };
        let (location, offset) = match (self.storage.clone(), tensor.origin()) {
            (Storage::Inline, _) => return Ok(tensor::to_inline(name, tensor)),
            (Storage::Share { links, file, .. }, Some(origin)) => self.share(origin, &links, &file)?,
            (Storage::External { file } | Storage::Share { file, .. }, _) => self.append(&file, bytes)?,
        };
        let (offset, length) = (offset.to_string(), bytes.len().to_string());
        let external_data = vec![entry("location", &location), entry("offset", &offset), entry("length", &length)];
        Ok(TensorProto { external_data, data_location: Some(EXTERNAL), ..tensor::header(name, tensor) })
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
