//! The rows that a command measures or answers.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{Columns, sizes, task};
use crate::adapter::config::Task;
use crate::anatomy;
use crate::data::Survey;
use crate::error::{OnlyWith, Result};
use crate::model::Model;
use crate::training::tuned_for;

/// The rows that a command measures or answers, and how they are read: of `eval` and `predict`.
#[derive(Clone, Debug, clap::Args)]
pub struct RowArgs {
    /// The data: a row for each example
    #[arg(long, aliases = ["eval-data", "predict-data", "test-file"], value_name = "FILE")]
    pub data: PathBuf,
    /// What columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// The model's task, if the graph does not say (for models; a bundle knows its task)
    #[arg(long, value_name = "TASK", alias = "task-type", value_parser = task::parse)]
    pub task: Option<Task>,
    /// Batch size, in rows of the data [default: 8, or as many as the model takes at once]
    #[arg(long, aliases = ["per-device-eval-batch-size", "bs"], value_name = "ROWS", value_parser = sizes::rows)]
    pub batch_size: Option<NonZeroUsize>,
    /// Truncate rows to this many tokens [default: no truncation; a row that is too long for the model is an error]
    #[arg(long, aliases = ["max-seq-length", "max-seq-len"], value_name = "TOKENS")]
    pub max_length: Option<NonZeroUsize>,
    /// For qa: part long texts into windows that share this many tokens with the one before [default: texts are cut]
    #[arg(long, value_name = "TOKENS")]
    pub doc_stride: Option<usize>,
}

/// Options that not every task has a use for.
#[rustfmt::skip]
static OF_TASKS: &[OnlyWith<RowArgs, Task>] = &[
    OnlyWith { option: "max_length", is_given: |args| args.max_length.is_some(), with: "a task whose rows are tokens", holds: |task| task.reads_tokens() },
    OnlyWith { option: "doc_stride", is_given: |args| args.doc_stride.is_some(), with: "the task qa",                  holds: |task| *task == Task::Qa },
];

impl RowArgs {
    /// The task that a model without a bundle is measured or answers for, as far as it is not told by the model: the one that is asked for, or that it was tuned for; else, of those that a model of one number
    /// for each row may be for, the only one that the columns of the data are for.
    ///
    /// # Errors
    /// A model or data that cannot be read.
    pub(super) fn task_of(&self, model: &Model) -> Result<Option<Task>> {
        let told = self.task.map_or_else(|| tuned_for(model.beside()), |task| Ok(Some(task)))?;
        let guess = anatomy::guess(model.graph(), model.anatomy(), &model.declared()?);
        let (None, None, Some(instead)) = (told, guess.task, guess.instead) else { return Ok(told) };
        let taught = if instead.tasks.len() > 1 { Survey::read(&self.data, &self.columns.map)?.tasks() } else { vec![] };
        let fitting: Vec<Task> = taught.into_iter().filter(|task| instead.tasks.contains(task)).collect();
        let [task] = fitting[..] else { return Ok(None) };
        tracing::warn!(
            "{} is taken for the task {task}, as the columns of {} are for it: `task` says otherwise",
            model.name().display(),
            self.data.display()
        );
        Ok(Some(task))
    }

    /// Refuses options that the task has no use for; `what` is measured or answered.
    ///
    /// # Errors
    /// The first that does nothing there.
    pub(super) fn check(&self, task: Task, what: String) -> Result<()> {
        OnlyWith::check(OF_TASKS, self, &task, what)
    }
}
