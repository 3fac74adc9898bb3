//! The data of a run: files, read with the bundle's tokenizer and limits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::adapter::config::Task;
use crate::anatomy::Anatomy;
use crate::error::{Context, Error, Result};
use crate::export::Manifest;
use crate::runtime::data::{Dataset, Filling, Labels, Limits, Packing, Reading, Tokenizer};

/// How files are read for a bundle.
pub struct Source {
    task: Task,
    tokenizer: Option<Tokenizer>,
    limits: Limits,
    max_length: Option<usize>,
    packing: Packing,
}

impl Source {
    /// Reads for a bundle: its task, its limits, and the named tokenizer or the one beside the bundle or its base.
    ///
    /// # Errors
    /// If the named tokenizer cannot be opened, or the task is unknown.
    pub fn of(bundle: &Path, manifest: &Manifest, tokenizer: Option<&Path>) -> Result<Self> {
        let task = Task::from_name(&manifest.task)
            .ok_or_else(|| Error::not_found("task", &*manifest.task))
            .in_file(bundle.join(crate::export::manifest::FILE))?;
        let tokenizer = match tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => tokenizer_near(&[bundle.join("inference.onnx"), PathBuf::from(&manifest.base.path)])?,
        };
        Ok(Self::with(task, tokenizer, manifest.classes, manifest.max_positions))
    }

    /// Reads for a plain model, with the named tokenizer or the one beside it.
    ///
    /// # Errors
    /// If the named tokenizer cannot be opened.
    pub fn of_model(model: &Path, task: Task, anatomy: &Anatomy, tokenizer: Option<&Path>) -> Result<Self> {
        let tokenizer = match tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => tokenizer_near(&[model.to_path_buf()])?,
        };
        let classes = anatomy.head.as_ref().and_then(|head| head.classes);
        Ok(Self::with(task, tokenizer, classes, anatomy.max_positions))
    }

    fn with(task: Task, tokenizer: Option<Tokenizer>, classes: Option<i64>, positions: Option<i64>) -> Self {
        let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        let is_class_task = matches!(task, Task::SeqCls | Task::TokenCls | Task::ImageCls);
        let limits = Limits {
            positions: size(positions),
            vocabulary: size(classes).filter(|_| !is_class_task),
            classes: size(classes).filter(|_| is_class_task),
        };
        Self { task, tokenizer, limits, max_length: None, packing: Packing::Off }
    }

    /// Cuts rows at a length, in tokens. Without one, a row that is longer than the model takes is an error.
    #[must_use]
    pub fn cut(mut self, max_length: Option<NonZeroUsize>) -> Self {
        self.max_length = max_length.map(NonZeroUsize::get);
        self
    }

    /// Joins short rows.
    #[must_use]
    pub fn packed(mut self, is_packed: bool) -> Self {
        if is_packed {
            self.packing = Packing::Concatenate;
        }
        self
    }

    /// What rows are filled up with.
    #[must_use]
    pub fn filling(&self) -> Filling {
        self.tokenizer.as_ref().map(Filling::of).unwrap_or_default()
    }

    /// What the rows are for.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// Reads a file. Class names are numbered as in `like`, if that has names.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read(&self, path: &Path, like: Option<&Dataset>) -> Result<Dataset> {
        let reading = Reading {
            task: self.task,
            tokenizer: self.tokenizer.as_ref(),
            max_length: self.max_length,
            packing: self.packing,
            limits: self.limits,
            class_names: like.and_then(|like| like.class_names.as_deref()),
        };
        Dataset::read(path, &reading)
    }
}

/// The tokenizer beside the first of these files that has one.
///
/// # Errors
/// If there is one that cannot be opened.
pub fn tokenizer_near(files: &[PathBuf]) -> Result<Option<Tokenizer>> {
    for file in files {
        if let Some(tokenizer) = Tokenizer::beside(file)? {
            return Ok(Some(tokenizer));
        }
    }
    Ok(None)
}

/// The numbers of all examples one after another, to tell whether two readings gave the same.
pub(super) fn numbers(dataset: &Dataset) -> impl Iterator<Item = i64> + '_ {
    dataset.examples.iter().flat_map(|example| {
        let labels: &[i32] = match &example.labels {
            Labels::Tokens(labels) => labels,
            Labels::Class(class) => std::slice::from_ref(class),
            Labels::Hidden => &[],
        };
        let line = i64::try_from(example.line).unwrap_or(i64::MAX);
        std::iter::once(line).chain(example.input_ids.iter().chain(labels).map(|number| i64::from(*number)))
    })
}
