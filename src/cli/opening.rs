//! Models and bundles, opened to answer rows.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::{RowArgs, Which};
use crate::adapter::config::{Pooling, Task};
use crate::data::ColumnMap;
use crate::error::{Error, Result};
use crate::export::objective::LossRequest;
use crate::model::Model;
use crate::model::parts::Files;
use crate::predict::Opened;
use crate::training::Source;

/// What is opened, and how its rows are read.
pub(super) struct Opening<'a> {
    pub model: &'a Path,
    /// The files that fill inputs of the model's.
    pub parts: &'a [PathBuf],
    pub base: Option<&'a Path>,
    pub which: &'a Which,
    pub tokenizer: Option<&'a Path>,
    pub task: Option<Task>,
    /// Rows that tell the task, where nobody names it and the model does not say.
    pub rows: Option<&'a RowArgs>,
    pub pooling: Option<Pooling>,
    pub normalize: Option<bool>,
    pub columns: ColumnMap,
    pub max_length: Option<NonZeroUsize>,
    pub stride: Option<usize>,
}

impl Opening<'_> {
    /// Opens it.
    ///
    /// # Errors
    /// A bundle that is not whole; a model that is not for the task; options that a bundle knows itself.
    pub(super) fn open(&self) -> Result<Opened> {
        if self.model.is_dir() { of_bundle(self) } else { of_model(self) }
    }

    fn read(&self, source: Source) -> Source {
        source.mapped(&self.columns).cut(self.max_length).parted(self.stride)
    }
}

fn of_bundle(args: &Opening<'_>) -> Result<Opened> {
    let bundle = args.which.open(args.model, args.base)?;
    let told = [("--task", args.task.is_some()), ("--pooling", args.pooling.is_some()), ("--normalize", args.normalize.is_some())];
    if let Some((option, _)) = told.iter().find(|(_, is_given)| *is_given) {
        let error = Error::invalid(format!("{option} with a bundle, which knows it")).in_file(args.model);
        return Err(error.with_hint("leave it out, or inject another bundle with it"));
    }
    let source = args.read(Source::of(&bundle, args.tokenizer)?);
    Opened::of_bundle(bundle, source)
}

fn of_model(args: &Opening<'_>) -> Result<Opened> {
    let asked = LossRequest { pooling: args.pooling, normalize: args.normalize, ..LossRequest::default() };
    let told = |model: &Model| args.rows.map_or(Ok(args.task), |rows| rows.task_of(model));
    let files = Files { model: args.model.to_path_buf(), parts: args.parts.to_vec(), joins: vec![] };
    Opened::of_model(&files, told, &asked, |model, task| Ok(args.read(Source::of_model(model, task, args.tokenizer)?)))
}
