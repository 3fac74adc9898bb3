//! A bundle as every command opens it: its manifest, and its base, which is found, checked and lent to the bundle's graphs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use super::injection::{Injected, Injection, inject};
use super::manifest::{self, Manifest};
use super::names::{INFERENCE, INITIAL, location};
use super::onnx_adapter::Made;
use super::{fingerprint, onnx_adapter, pending, trainable};
use crate::anatomy::{self, Task};
use crate::ir::{Builder, Graph, Tensor};
use crate::model::parts::Files;
use crate::model::{Model, class_names};
use crate::onnx::{self, Lent, Runnable, Storage, WriteOptions};
use crate::peft::{self, AdapterFiles};
use crate::{Context, Error, ErrorKind, Result};

/// Up to so many bytes of constants `inference.onnx` is a model of its own; with more it refers to the base, as a bundle's other graphs do.
pub const WHOLE: usize = 32 << 20;

/// A bundle whose base is there and is the one that it was made of.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    model: Files,
    lent: Vec<Lent>,
    adapter: PathBuf,
    memory: Option<InMemory>,
    /// An adapter in place of the one in its folder, or the one that was put in.
    other: Option<Arc<AdapterFiles>>,
}

/// What a bundle has that is in no folder.
#[derive(Clone, Debug)]
struct InMemory {
    model: Arc<Model>,
    graphs: Arc<IndexMap<&'static str, Graph>>,
    /// The adapter as it was put into the graphs.
    made: Arc<AdapterFiles>,
}

/// Where the base of a bundle lies.
pub(super) struct BaseFiles {
    /// The file whose outputs are the model's.
    pub(super) model: PathBuf,
    /// The other files of a model in several.
    pub(super) parts: Vec<PathBuf>,
    /// All files with the manifest's fingerprints, in its order.
    pub(super) files: Vec<PathBuf>,
}

impl BaseFiles {
    /// Those that a manifest names, from the bundle's folder or from where the base went.
    pub(super) fn of(manifest: &Manifest, folder: &Path, base: Option<&Path>) -> Self {
        let model = base.map_or_else(|| folder.join(&manifest.base.path), Path::to_path_buf);
        let beside = |file: &Path| file.parent().map(Path::to_path_buf).unwrap_or_default();
        let parts: Vec<PathBuf> = manifest.base.parts.iter().map(|part| beside(&model).join(part)).collect();
        let path = |(number, file): (usize, &manifest::BaseFile)| match file.part.checked_sub(1).and_then(|part| parts.get(part)) {
            Some(part) => beside(part).join(&file.path),
            None if number == 0 => model.clone(),
            None => beside(&model).join(&file.path),
        };
        let files = manifest.base.files.iter().enumerate().map(path).collect();
        Self { model, parts, files }
    }
}

impl Bundle {
    /// Opens a bundle; `base` is where its base went, if it moved.
    ///
    /// # Errors
    /// A folder that is no bundle; a base that is not there, or is another than the one that the bundle was made of.
    pub fn open(folder: &Path, base: Option<&Path>) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let BaseFiles { model, parts, files } = BaseFiles::of(&manifest, folder, base);
        check(folder, &manifest, &files)?;
        let open = |(file, path): (&manifest::BaseFile, &PathBuf)| Lent::open(location(&file.path, file.part), path);
        let lent = manifest.base.files.iter().zip(&files).map(open).collect::<Result<_>>()?;
        Ok(Self {
            folder: folder.to_path_buf(),
            model: Files { model, parts, joins: manifest.base.joins.clone() },
            manifest,
            lent,
            adapter: pending::adapter_folder(folder),
            memory: None,
            other: None,
        })
    }

    /// A bundle in memory: a model with an adapter in it, and the graphs that train and run that.
    ///
    /// # Errors
    /// As `inject`.
    pub fn of(model: &Model, asked: &Injection) -> Result<Self> {
        let mut graphs = IndexMap::new();
        let Injected { mut manifest, files, .. } = inject(model.clone(), asked, &mut |purpose, graph| {
            graphs.insert(purpose.name(), graph);
            Ok(())
        })?;
        manifest.base.file = model.name().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let memory = InMemory { model: Arc::new(model.clone()), graphs: Arc::new(graphs), made: Arc::new(files) };
        let (folder, place) = (PathBuf::new(), model.name().to_path_buf());
        Ok(Self { adapter: folder.clone(), folder, manifest, model: Files::one(&place), lent: vec![], memory: Some(memory), other: None })
    }

    /// The same with another adapter for the same graphs, in memory.
    #[must_use]
    pub fn with_files(mut self, files: AdapterFiles) -> Self {
        self.other = Some(Arc::new(files));
        self
    }

    /// The same with names for its classes, in the order of their numbers.
    ///
    /// # Errors
    /// More names than the model has classes.
    pub fn with_class_names(mut self, names: &[String]) -> Result<Self> {
        let classes = self.manifest.classes.and_then(|classes| usize::try_from(classes).ok());
        if let Some(classes) = classes.filter(|classes| names.len() > *classes) {
            let error = Error::mismatch("names of classes", format!("{classes} at most, as many as the model has classes"), names.len());
            return Err(error.with_hint("`num_labels` puts a head with so many classes on a model"));
        }
        self.manifest.class_names = names.to_vec();
        Ok(self)
    }

    /// The same with another adapter, in memory, that has the same tensors; its scales are brought to those of the graphs.
    ///
    /// # Errors
    /// An adapter of another method, for other modules, of other ranks, or with other numbers where the graphs have constants.
    pub fn fitted(&self, files: AdapterFiles) -> Result<Self> {
        let own = self.files()?;
        let missing =
            |one: &AdapterFiles, other: &AdapterFiles| one.tensors.keys().find(|name| !other.tensors.contains_key(*name)).cloned();
        if let Some(name) = missing(&own, &files).or_else(|| missing(&files, &own)) {
            return Err(Error::not_found("tensor in both adapters", name).with_hint("they attach to different modules"));
        }
        let fitted = self.clone().with_files(onnx_adapter::fitted(files, &own)?);
        fitted.inputs()?;
        Ok(fitted)
    }

    /// The adapter's tensors by the optional inputs of the inference graph.
    ///
    /// # Errors
    /// An adapter that is not of the graph's inputs.
    pub fn inputs(&self) -> Result<IndexMap<String, Tensor>> {
        let made = self.memory.as_ref().map_or(Made::Folder(&self.folder), |memory| Made::Memory(&memory.made));
        onnx_adapter::inputs(made, &self.manifest, &self.files()?).in_file(self.adapter.join(peft::WEIGHTS_FILE))
    }

    /// The adapter.
    ///
    /// # Errors
    /// Files that are missing or malformed.
    pub fn files(&self) -> Result<AdapterFiles> {
        match (&self.other, &self.memory) {
            (Some(other), _) => Ok((**other).clone()),
            (None, Some(memory)) => Ok((*memory.made).clone()),
            (None, None) => peft::read(&self.adapter),
        }
    }

    /// All trainable parameters, in the order of the trainable vector.
    ///
    /// # Errors
    /// As [`files`](Self::files).
    pub fn trainable(&self) -> Result<Vec<f32>> {
        if self.other.is_none() && self.memory.is_none() {
            return trainable::read(&self.adapter, &self.manifest);
        }
        trainable::of(&self.files()?, &self.manifest)
    }

    /// The base, read and recognised.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn base(&self) -> Result<Model> {
        self.memory.as_ref().map_or_else(|| Model::open_files(&self.model), |memory| Ok((*memory.model).clone()))
    }

    /// The base as a runtime opens it.
    ///
    /// # Errors
    /// If it cannot be written as a message.
    pub fn unadapted(&self) -> Result<Runnable> {
        match &self.memory {
            Some(memory) => Runnable::of(&memory.model.base().raw, memory.model.name()),
            None if self.model.parts.is_empty() => Ok(Runnable::from(&self.model.model)),
            None => Runnable::of(&Model::joined(&self.model)?, &self.model.model),
        }
    }

    /// The files near which a tokenizer and the like may lie: in the bundle, then by the model, last by the bundle, where something of another model
    /// may lie as well. None of a bundle in memory.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        if self.memory.is_some() {
            return vec![];
        }
        // Above `initial/` is the bundle, above the bundle what lies beside it.
        vec![self.folder.join(INITIAL).join(peft::CONFIG_FILE), self.model.model.clone(), self.folder.join(peft::CONFIG_FILE)]
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

    /// The base's file; of several, the one whose outputs are the model's.
    #[must_use]
    pub fn model(&self) -> &Path {
        &self.model.model
    }

    /// All files of the base.
    #[must_use]
    pub fn model_files(&self) -> &Files {
        &self.model
    }

    /// The graph for a purpose, with its weights.
    ///
    /// # Errors
    /// If the bundle does not have it, or it cannot be read.
    pub fn graph(&self, purpose: impl AsRef<str>) -> Result<Graph> {
        let purpose = purpose.as_ref();
        if let Some(memory) = &self.memory {
            return memory.graphs.get(purpose).cloned().ok_or_else(|| Error::not_found("graph", purpose));
        }
        let path = self.path(purpose)?;
        onnx::read_lent(&path, &self.lent)
    }

    /// The graph for a purpose as a runtime opens it. That for inference has the adapter as its file is now, whoever wrote it.
    ///
    /// # Errors
    /// As [`graph`](Self::graph); an adapter that is not of the graph's inputs.
    pub fn runnable(&self, purpose: impl AsRef<str>) -> Result<Runnable> {
        let purpose = purpose.as_ref();
        let path = self.path(purpose)?;
        if purpose == INFERENCE {
            return Runnable::of(&self.adapted()?, &path);
        }
        if self.memory.is_some() {
            return Runnable::of(&self.graph(purpose)?, &path);
        }
        Runnable::lent(&path, self.lent.clone())
    }

    /// Another graph in place of that for a purpose, as a runtime opens it.
    ///
    /// # Errors
    /// If the bundle does not have one for it.
    pub fn runnable_as(&self, purpose: impl AsRef<str>, graph: &Graph) -> Result<Runnable> {
        Runnable::of(graph, &self.path(purpose.as_ref())?)
    }

    /// The inference graph with the adapter as its file is now.
    ///
    /// # Errors
    /// As [`runnable`](Self::runnable).
    pub fn adapted(&self) -> Result<Graph> {
        let graph = with_adapter(&self.graph(INFERENCE)?, &self.inputs()?)?;
        class_names::written(graph, self.manifest.classes, &self.manifest.class_names, false)
    }

    /// Refuses to write text with a bundle whose graph gives no scores of the tokens that come next. A language model whose vectors are learnt still has
    /// them.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) with what it gives instead.
    pub fn check_writes(&self) -> Result<()> {
        let written = match self.manifest.task.parse() {
            Ok(Task::Embedding) => {
                let base = self.base()?;
                anatomy::check_writes(base.graph(), base.anatomy(), &base.declared()?)
            }
            task => task.and_then(Task::check_writes),
        };
        written.in_file(&self.folder)
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
        // Training has told the manifest the names of classes since the bundle was opened.
        let now = Self { manifest: Manifest::read(&self.folder)?, ..self.clone() };
        let files: Vec<(PathBuf, String)> = self.lent.iter().map(|lent| (lent.path().to_path_buf(), lent.location().to_owned())).collect();
        write_inference(&now.adapted()?, &self.path(INFERENCE)?, &files)
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
        let is_other = files.first().is_some_and(|model| model.exists() && model != path);
        let found = fingerprint::of_file(path, file.bytes).map_err(|error| not_the_base(error, manifest, is_other))?;
        if found != file.hash {
            let error = Error::mismatch("fingerprint of the base", &file.hash, found).in_file(path);
            return Err(not_the_base(error, manifest, is_other));
        }
    }
    fingerprint::remember(bundle, &manifest.base.fingerprint, &paths);
    Ok(())
}

/// `is_other` is whether the file is one beside the model's own.
fn not_the_base(error: Error, manifest: &Manifest, is_other: bool) -> Error {
    let name = &manifest.base.file;
    match error.kind() {
        ErrorKind::Io(why) if why.kind() == std::io::ErrorKind::NotFound && is_other => {
            error.with_hint(format!("the base {name} has weights in this file: put it beside the base again, or name the whole base with `base MODEL`"))
        }
        ErrorKind::Io(why) if why.kind() == std::io::ErrorKind::NotFound => error.with_hint(format!(
            "the bundle's base {name} is not there any more: say where it went with `base MODEL`"
        )),
        _ => error.with_hint(format!(
            "the base {name} was changed after the bundle was made of it: name the one that it was with `base MODEL`, or put the adapter into this \
             one with `peft-onnx inject MODEL --adapter BUNDLE`"
        )),
    }
}
