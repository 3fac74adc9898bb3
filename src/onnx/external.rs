//! Tensors' data: in the model file, or in other files beside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::lent::Lent;
use super::map::Mapped;
use super::proto::{EXTERNAL, TensorProto};
use super::tensor;
use crate::error::{Context, Error, ErrorKind, Place, Result};
use crate::ir::Tensor;

/// Where the data of tensors that are read comes from.
pub(super) trait Load {
    /// The tensor of a message.
    fn load(&self, proto: &TensorProto) -> Result<Tensor>;
}

/// A model file and the files that hold its external data, each mapped once.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    model: Mapped,
    others: RefCell<BTreeMap<String, Mapped>>,
    /// Whether all is in memory: no file is looked for, and no tensor has a place in one.
    in_memory: bool,
}

/// What a tensor says of its external data.
pub(super) struct Reference<'a> {
    pub(super) location: &'a str,
    pub(super) offset: u64,
    pub(super) length: Option<u64>,
}

impl Files {
    /// A model whose other files are beside it, but for those that are lent.
    pub(super) fn open(path: &Path, lent: &[Lent]) -> Result<Self> {
        let model = Mapped::open(path)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let others = lent.iter().map(|lent| (lent.location().to_owned(), lent.mapped.clone())).collect();
        Ok(Self { folder, model, others: RefCell::new(others), in_memory: false })
    }

    /// A model in memory, and the files that it refers to by their locations.
    pub(super) fn in_memory(model: Bytes, others: &[(&str, Bytes)]) -> Self {
        let named = |name: &str, bytes: Bytes| Mapped::of(Arc::from(Path::new(name)), bytes);
        let others = others.iter().map(|(location, bytes)| ((*location).to_owned(), named(location, bytes.clone()))).collect();
        Self { folder: PathBuf::new(), model: named("", model), others: RefCell::new(others), in_memory: true }
    }

    pub(super) fn model(&self) -> &Bytes {
        self.model.bytes()
    }

    fn external(&self, proto: &TensorProto) -> Result<Tensor> {
        let (dtype, shape) = tensor::form(proto)?;
        let reference = Reference::of(proto)?;
        let file = self.other(reference.location)?;
        let expected = dtype.bytes(tensor::count(&shape)?);
        let size = file.bytes().len();
        let start = usize::try_from(reference.offset).unwrap_or(usize::MAX);
        let length = reference.length.map_or(expected, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let end = start.checked_add(length).filter(|&end| end <= size).ok_or_else(|| {
            let expected = format!("{length} bytes from offset {start}");
            Error::mismatch("external data", expected, format!("a file of {size} bytes"))
                .in_file(self.folder.join(reference.location))
                .with_hint("the data file was cut short or belongs to another model: fetch it again")
        })?;
        let data = file.bytes().slice(start..end);
        let origin = file.origin_of(&data).filter(|_| !self.in_memory);
        let tensor = Tensor::new(dtype, shape, data)?;
        Ok(origin.into_iter().fold(tensor, Tensor::at))
    }

    fn other(&self, location: &str) -> Result<Mapped> {
        if let Some(file) = self.others.borrow().get(location) {
            return Ok(file.clone());
        }
        if self.in_memory {
            let error = Error::not_found("external data", location);
            return Err(error.with_hint("the weights are in a file of this name: give its bytes, or open the model from its file"));
        }
        let path = self.folder.join(location);
        if !stays_inside(Path::new(location)) {
            return Err(outside(location));
        }
        let file = Mapped::open(&path).hint("the weights are in this file: it must lie beside the model, under this name")?;
        if !self.may_read(&path).in_file(&path)? {
            return Err(outside(location));
        }
        self.others.borrow_mut().insert(location.to_owned(), file.clone());
        Ok(file)
    }

    /// Links are followed only to files in the model's folder, or in the folder that the model itself is linked into (so the cache of
    /// the Hugging Face hub stores models). ONNX Runtime has the same rule.
    fn may_read(&self, path: &Path) -> Result<bool> {
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let target = path.canonicalize()?;
        let model = self.model.path().canonicalize()?;
        Ok(target.starts_with(folder.canonicalize()?) || model.parent().is_some_and(|parent| target.starts_with(parent)))
    }
}

impl Load for Files {
    fn load(&self, proto: &TensorProto) -> Result<Tensor> {
        let place = || Place::Tensor(proto.name().to_owned());
        if proto.data_location() == EXTERNAL {
            return self.external(proto).map_err(|error| error.at(place()));
        }
        let tensor = tensor::inline(proto).map_err(|error| error.at(place()))?;
        let origin = tensor.bytes().and_then(|bytes| self.model.origin_of(bytes)).filter(|_| !self.in_memory);
        Ok(origin.into_iter().fold(tensor, Tensor::at))
    }
}

impl<'a> Reference<'a> {
    pub(super) fn of(proto: &'a TensorProto) -> Result<Self> {
        let entry =
            |key: &str| proto.external_data.iter().find(|entry| entry.key() == key).map(super::proto::StringStringEntryProto::value);
        let number = |key: &'static str| {
            let parse = |text: &str| text.parse::<u64>().map_err(|_| Error::mismatch(format!("external data's {key}"), "a number", text));
            entry(key).map(parse).transpose()
        };
        let location = entry("location").ok_or_else(|| Error::from(ErrorKind::Invalid("external data without location".into())))?;
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

/// Whether a relative path leads nowhere outside the folder it starts from, links aside.
fn stays_inside(path: &Path) -> bool {
    let depth = path.components().try_fold(0_usize, |depth, component| match component {
        Component::Normal(_) => Some(depth + 1),
        Component::CurDir => Some(depth),
        Component::ParentDir => depth.checked_sub(1),
        Component::RootDir | Component::Prefix(_) => None,
    });
    depth.is_some_and(|depth| depth > 0)
}

fn outside(location: &str) -> Error {
    Error::unsupported(format!("external data in {location:?}"), "it lies outside the model's folder")
        .with_hint("put the data file into the model's folder and save the model with that location")
}
