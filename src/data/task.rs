//! The forms that rows have for each task, in words.

use crate::adapter::config::Task;

/// The forms of rows that go with a task, in words.
#[must_use]
pub fn forms(task: Task) -> &'static str {
    task.row().columns
}
