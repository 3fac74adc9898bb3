//! A model as everything reads it: opened once, raised, decomposed and recognised; what the files beside it say; its computation in float32.

pub mod base;
mod beside;
pub mod class_names;
pub mod declared;
pub mod finite;
pub mod parts;
pub mod upcast;

pub use base::Base;
pub use beside::Beside;
use parts::{Files, Join};

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::anatomy::{Anatomy, Declared, Front};
use crate::error::{Context, Result};
use crate::ir::Graph;
use crate::onnx::Runnable;
use crate::{decompose, onnx};

/// What a model in memory is called in messages.
const IN_MEMORY: &str = "model.onnx";

/// A model: its file read once, its graph raised, decomposed and recognised once. Everything that works on a model is handed this.
///
/// ```
/// use peft_onnx::Model;
/// use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
///
/// # fn main() -> peft_onnx::Result<()> {
/// let b = Builder::new(ModelInfo::dialect());
/// let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
/// let weight = b.initializer("encoder.proj.weight", Tensor::from_f32(&[4, 2], &[0.5; 8]));
/// b.output("y", x.matmul(weight));
/// let bytes = peft_onnx::onnx::to_bytes(&b.finish()?)?;
///
/// let model = Model::from_bytes(bytes)?;
/// assert_eq!(model.anatomy().projections.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    /// The graphs, from the file's own to the one that is trained.
    pub(crate) base: Base,
    file: Option<PathBuf>,
    /// The files that it is joined of, beside its own.
    files: Files,
    pub(crate) beside: Beside,
}

impl Model {
    /// Reads and recognises the model of a file.
    ///
    /// # Errors
    /// A file that is no model, or whose external data is missing; operators of a form that is not known.
    pub fn open(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        Self::of_file(&onnx::read(file)?, file).in_file(file)
    }

    /// Reads and recognises a model that may lie in several files.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`joined`](Self::joined).
    pub fn open_files(files: &Files) -> Result<Self> {
        if files.parts.is_empty() {
            return Self::open(&files.model);
        }
        let (graph, joins) = Self::joined_by(files)?;
        let model = Self::of_file(&graph, &files.model).in_file(&files.model)?;
        Ok(Self { files: Files { joins, ..files.clone() }, ..model })
    }

    /// The graph of a model in several files.
    ///
    /// # Errors
    /// A file that is no model; as [`parts::join`].
    pub fn joined(files: &Files) -> Result<Graph> {
        Self::joined_by(files).map(|(graph, _)| graph)
    }

    /// The same, and by which joins: those that are asked for, and those that the files beside the model tell.
    fn joined_by(files: &Files) -> Result<(Graph, Vec<Join>)> {
        let mut read: Vec<parts::File<'_>> = vec![];
        let mut model = Anatomy::default();
        for (number, path) in files.all().enumerate() {
            let inlined = onnx::inline_functions(&onnx::read(path)?).in_file(path)?;
            let anatomy = Base::of(&inlined).in_file(path)?.anatomy;
            let front = if number == 0 { Front::of_model(&anatomy) } else { Front::of_encoder(&anatomy, &model) };
            if number == 0 {
                model = anatomy;
            }
            read.push(parts::File { path, graph: onnx::raise(&inlined).in_file(path)?, front });
        }
        let joins = parts::with_pictures(&read, &files.joins, &Beside::near(&files.model))?;
        Ok((parts::join(&read, &joins)?, joins))
    }

    /// Recognises the graph that a file was read as.
    ///
    /// # Errors
    /// Operators of a form that is not known.
    pub fn of_file(graph: &Graph, file: &Path) -> Result<Self> {
        Ok(Self { file: Some(file.to_path_buf()), files: Files::one(file), beside: Beside::near(file), ..Self::of(graph)? })
    }

    /// Reads and recognises a model in memory, whose weights are in it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        Self::of(&onnx::read_bytes(bytes, &[])?)
    }

    /// Recognises a graph.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(graph: &Graph) -> Result<Self> {
        let base = onnx::inline_functions(graph).and_then(|raw| Base::of(&raw))?;
        Ok(Self { base, file: None, files: Files::default(), beside: Beside::default() })
    }

    /// The same model with a file that belongs to it, as `config.json`.
    #[must_use]
    pub fn with_file(mut self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        if let Beside::Given(files) = &mut self.beside {
            files.insert(name.into(), bytes.into());
        }
        self
    }

    /// The model's file, or what stands for it in messages.
    #[must_use]
    pub fn name(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(IN_MEMORY))
    }

    /// The model's file; none of a model in memory.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The files that it is read from.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The model for a runtime: its file, or the graph that its files are joined to.
    ///
    /// # Errors
    /// A graph that cannot be written.
    pub fn runnable(&self) -> Result<Runnable> {
        match &self.file {
            Some(file) if self.files.parts.is_empty() => Ok(file.into()),
            _ => Runnable::of(&self.base.raw, self.name()),
        }
    }

    /// Near which files its tokenizer and its configurations lie.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        self.files.all().map(Path::to_path_buf).collect()
    }

    /// The files that belong to it.
    #[must_use]
    pub fn beside(&self) -> &Beside {
        &self.beside
    }

    /// What the files beside it say of it.
    ///
    /// # Errors
    /// A file that is not JSON.
    pub fn declared(&self) -> Result<Declared> {
        declared::of_model(&self.beside)
    }

    /// The graph in standard operators: what is recognised and trained.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.base.graph
    }

    /// What was recognised in the [`graph`](Self::graph).
    #[must_use]
    pub fn anatomy(&self) -> &Anatomy {
        &self.base.anatomy
    }

    /// The graphs, from the file's own to the one that is trained.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }
}

/// The operators of the newest set that is understood, functions inlined.
///
/// # Errors
/// Operators without such a form.
pub fn raised(graph: &Graph) -> Result<Graph> {
    onnx::inline_functions(graph).and_then(|graph| onnx::raise(&graph))
}

/// The same with fused and quantised operators written as standard ones.
///
/// # Errors
/// As [`raised`].
pub fn plain(graph: &Graph) -> Result<Graph> {
    decompose::separate(&raised(graph)?).and_then(|graph| decompose::decompose(&graph))
}
