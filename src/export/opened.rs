//! A bundle as every command opens it: its manifest, and its base, which is found, checked and lent to the bundle's graphs.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::manifest::{self, Manifest};
use super::names::{INFERENCE, location};
use super::{fingerprint, onnx_adapter, pending};
use crate::ir::{Builder, Graph, Tensor};
use crate::onnx::{self, Lent, Runnable, Storage, WriteOptions};
use crate::{Context, Error, ErrorKind, Result, peft};

/// Up to so many bytes of constants `inference.onnx` is a model of its own; with more it refers to the base, as a bundle's other graphs do.
pub const WHOLE: usize = 32 << 20;

/// A bundle whose base is there and is the one that it was made of.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    model: PathBuf,
    lent: Vec<Lent>,
    adapter: PathBuf,
}

impl Bundle {
    /// Opens a bundle; `base` is where its base went, if it moved.
    ///
    /// # Errors
    /// A folder that is no bundle; a base that is not there, or is another than the one that the bundle was made of.
    pub fn open(folder: &Path, base: Option<&Path>) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let model = base.map_or_else(|| folder.join(&manifest.base.path), Path::to_path_buf);
        let beside = model.parent().map(Path::to_path_buf).unwrap_or_default();
        let files: Vec<PathBuf> = (manifest.base.files.iter().enumerate())
            .map(|(number, file)| if number == 0 { model.clone() } else { beside.join(&file.path) })
            .collect();
        check(folder, &manifest, &files)?;
        let open = |(file, path): (&manifest::BaseFile, &PathBuf)| Lent::open(location(&file.path), path);
        let lent = manifest.base.files.iter().zip(&files).map(open).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_path_buf(), manifest, model, lent, adapter: pending::adapter_folder(folder) })
    }

    /// The same with the adapter of another folder: a checkpoint's.
    #[must_use]
    pub fn with_adapter(self, adapter: PathBuf) -> Self {
        Self { adapter, ..self }
    }

    /// The folder with the adapter's files.
    #[must_use]
    pub fn adapter(&self) -> &Path {
        &self.adapter
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The base's file.
    #[must_use]
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// The graph for a purpose, with its weights.
    ///
    /// # Errors
    /// If the bundle does not have it, or it cannot be read.
    pub fn graph(&self, purpose: &str) -> Result<Graph> {
        let path = self.path(purpose)?;
        onnx::read_lent(&path, &self.lent)
    }

    /// The graph for a purpose as a runtime opens it. That for inference has the adapter as its file is now, whoever wrote it.
    ///
    /// # Errors
    /// As [`graph`](Self::graph); an adapter that is not of the graph's inputs.
    pub fn runnable(&self, purpose: &str) -> Result<Runnable> {
        let path = self.path(purpose)?;
        if purpose == INFERENCE {
            return Runnable::of(&self.adapted()?, &path);
        }
        Runnable::lent(&path, self.lent.clone())
    }

    /// The inference graph with the adapter as its file is now.
    ///
    /// # Errors
    /// As [`runnable`](Self::runnable).
    pub fn adapted(&self) -> Result<Graph> {
        let graph = self.graph(INFERENCE)?;
        let files = peft::read(&self.adapter)?;
        with_adapter(&graph, &onnx_adapter::inputs(&self.folder, &self.manifest, &files).in_file(self.adapter.join(peft::WEIGHTS_FILE))?)
    }

    /// Writes `inference.onnx` again, with the adapter as its file is now: what has to follow when the adapter's file was replaced, for those who open
    /// the graph without this program.
    ///
    /// # Errors
    /// As [`adapted`](Self::adapted), and if the file cannot be written.
    pub fn renew_inference(&self) -> Result<()> {
        if !self.manifest.graphs.contains_key(INFERENCE) {
            return Ok(());
        }
        let files: Vec<(PathBuf, String)> = self.lent.iter().map(|lent| (lent.path().to_path_buf(), lent.location().to_owned())).collect();
        write_inference(&self.adapted()?, &self.path(INFERENCE)?, &files)
    }

    fn path(&self, purpose: &str) -> Result<PathBuf> {
        Ok(self.folder.join(&self.manifest.graph(purpose).in_file(&self.folder)?.file))
    }
}

/// Writes a graph for inference: whole if its constants are few, else referring to the base's `files`.
pub(super) fn write_inference(graph: &Graph, path: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    let constants = graph.initializers().filter(|(id, _)| !graph.is_input(*id));
    let size: usize = constants.filter_map(|(_, tensor)| tensor.bytes()).map(bytes::Bytes::len).sum();
    let storage = if size <= WHOLE { Storage::Inline } else { Storage::Refer { files: files.to_vec(), file: format!("{INFERENCE}.data") } };
    onnx::write(graph, path, &WriteOptions { storage })
}

fn with_adapter(graph: &Graph, tensors: &IndexMap<String, Tensor>) -> Result<Graph> {
    let b = Builder::on(graph);
    for (name, tensor) in tensors {
        let input = b.input_named(name).ok_or_else(|| Error::not_found("input", name))?;
        b.set_initializer(input.id(), tensor.clone());
    }
    b.finish_whole()
}

/// Compares the base's files with those that the bundle was made of.
fn check(bundle: &Path, manifest: &Manifest, files: &[PathBuf]) -> Result<()> {
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    if fingerprint::is_remembered(bundle, &manifest.base.fingerprint, &paths) {
        return Ok(());
    }
    for (file, path) in manifest.base.files.iter().zip(files) {
        let found = fingerprint::of_file(path, file.bytes).map_err(|error| not_the_base(error, manifest))?;
        if found != file.hash {
            let error = Error::mismatch("fingerprint of the base", &file.hash, found).in_file(path);
            return Err(not_the_base(error, manifest));
        }
    }
    fingerprint::remember(bundle, &manifest.base.fingerprint, &paths);
    Ok(())
}

fn not_the_base(error: Error, manifest: &Manifest) -> Error {
    let name = &manifest.base.file;
    match error.kind() {
        ErrorKind::Io(why) if why.kind() == std::io::ErrorKind::NotFound => error.with_hint(format!(
            "the bundle's base {name} is not there any more: say where it went with `--base MODEL`"
        )),
        _ => error.with_hint(format!(
            "the base {name} was changed after the bundle was made of it: name the one that it was with `--base MODEL`, or put the adapter into this \
             one with `peft-onnx inject MODEL --adapter BUNDLE`"
        )),
    }
}
