//! Models as a runtime opens them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::external::Reference;
use super::lent::Lent;
use super::map::Mapped;
use super::proto::{EXTERNAL, GraphProto, ModelProto, TensorProto};
use super::storage::{Store, refers};
use super::{tensor, write};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::ir::{Graph, Tensor};

/// A model as a runtime opens it: its file, or its message in memory, and what stands in for the files that it refers to.
#[derive(Clone, Debug)]
pub struct Runnable {
    /// The model's file; of a message in memory, what errors name.
    pub path: PathBuf,
    /// The message to open instead of the file.
    pub message: Option<Bytes>,
    /// What stands in for files; it must live as long as whoever reads the model.
    pub lent: Vec<Lent>,
    /// The folder that locations start from, if it is not the model's own.
    pub root: Option<&'static str>,
}

/// The folder that the locations of files on the disk start from, wherever they are: ONNX Runtime takes what lies below one folder.
const ROOT: &str = "/";

/// The location of a file as seen from [`ROOT`], links followed; none where paths are no text or have no such root.
fn from_root(path: &Path) -> Option<String> {
    let target = path.canonicalize().ok()?;
    target.to_str()?.strip_prefix(ROOT).map(str::to_owned)
}

impl From<&Path> for Runnable {
    fn from(path: &Path) -> Self {
        Self { path: path.to_path_buf(), message: None, lent: vec![], root: None }
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
        let lent = store.lent()?;
        Ok(Self { path: path.to_path_buf(), message: Some(message.into()), lent, root: Some(ROOT) })
    }

    /// A model's file, some of whose files are lent. ONNX Runtime maps those that are on the disk itself: of a file in memory it copies every tensor that does
    /// not begin where its type asks for, as most do in a model's own file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn lent(path: &Path, lent: Vec<Lent>) -> Result<Self> {
        let as_it_is = Self { path: path.to_path_buf(), message: None, lent, root: None };
        let mapped = Mapped::open(path)?;
        let mut model = ModelProto::decode(mapped.bytes().clone()).map_err(|why| Error::format("an ONNX model", why)).in_file(path)?;
        let folder = files::folder(path);
        let file = |location: &str| {
            let lent = as_it_is.lent.iter().find(|lent| lent.location() == location);
            lent.map_or_else(|| folder.join(location), |lent| lent.path().to_path_buf())
        };
        model.graph.iter_mut().try_for_each(|graph| take_in_bodies(graph, &file)).in_file(path)?;
        let graph = model.graph.iter_mut().all(|graph| relocate(graph, &|location| from_root(&file(location))));
        if !graph {
            return Ok(as_it_is);
        }
        Ok(Self { path: path.to_path_buf(), message: Some(model.encode_to_vec().into()), lent: vec![], root: Some(ROOT) })
    }
}

/// Puts constants of bodies into the message that lie in a file under several names: ONNX Runtime opens the files of bodies in another way, which refuses
/// those.
fn take_in_bodies(graph: &mut GraphProto, file: &dyn Fn(&str) -> PathBuf) -> Result<()> {
    for body in bodies(graph) {
        for tensor in body.initializer.iter_mut().filter(|tensor| tensor.data_location() == EXTERNAL) {
            let Reference { location, offset, length } = Reference::of(tensor)?;
            let path = file(location);
            if files::has_several_names(&path) {
                let bytes = files::map(&path)?;
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = length.map_or(Some(bytes.len()), |length| start.checked_add(usize::try_from(length).ok()?));
                let inside = end.filter(|end| start <= *end && *end <= bytes.len());
                let end =
                    inside.ok_or_else(|| Error::mismatch("bytes of the file", "those of its constants", bytes.len()).in_file(&path))?;
                (tensor.raw_data, tensor.data_location) = (Some(bytes.slice(start..end)), None);
                tensor.external_data.clear();
            }
        }
        take_in_bodies(body, file)?;
    }
    Ok(())
}

/// The graphs in the attributes of nodes.
fn bodies(graph: &mut GraphProto) -> impl Iterator<Item = &mut GraphProto> {
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    attributes.flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}

/// Gives the constants of a graph and its bodies other locations, and says whether each has one.
fn relocate(graph: &mut GraphProto, located: &dyn Fn(&str) -> Option<String>) -> bool {
    let mut entries = graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.external_data).filter(|entry| entry.key() == "location");
    let all = entries.all(|entry| {
        let location = located(entry.value());
        let is_there = location.is_some();
        entry.value = location.or(entry.value.take());
        is_there
    });
    all && bodies(graph).all(|body| relocate(body, located))
}

/// Tensors of fewer bytes that are in no file are copied: once one is lent, all files are, and of those ONNX Runtime copies what does not lie as it wants.
const COPIED: usize = 64 << 10;

/// Where the tensors of a message in memory are: each that is not small is a file of its own by name.
#[derive(Debug, Default)]
struct Memory {
    lent: Vec<Lent>,
    /// Files on the disk that tensors are in, by their locations.
    files: BTreeMap<String, PathBuf>,
}

impl Memory {
    /// What stands in for files: once there is one, ONNX Runtime looks for no file on the disk, so that all are lent.
    fn lent(mut self) -> Result<Vec<Lent>> {
        if !self.lent.is_empty() {
            for (location, file) in self.files {
                self.lent.push(Lent::open(location, &file)?);
            }
        }
        Ok(self.lent)
    }
}

impl Store for Memory {
    fn put(&mut self, name: &str, value: &Tensor) -> Result<TensorProto> {
        let Some(bytes) = super::storage::data_of(value) else { return Ok(tensor::to_inline(name, value)) };
        let on_disk = value.origin().and_then(|origin| Some((from_root(&origin.file)?, origin)));
        if let Some((location, origin)) = on_disk {
            self.files.entry(location.clone()).or_insert_with(|| origin.file.to_path_buf());
            return Ok(refers(name, value, &location, origin.offset));
        }
        if bytes.len() < COPIED {
            return Ok(tensor::to_inline(name, value));
        }
        let location = format!("memory/{}", self.lent.len());
        let message = refers(name, value, &location, 0);
        self.lent.push(Lent { location, mapped: Mapped::of(Arc::from(Path::new(name)), bytes.clone()) });
        Ok(message)
    }

    fn is_elsewhere(&self, message: &TensorProto) -> bool {
        message.external_data.iter().any(|entry| entry.key() == "location" && entry.value().starts_with("memory/"))
    }
}
