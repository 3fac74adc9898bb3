//! What is concluded from a model's outputs.

use super::table::Task;

/// A task, and what it was concluded from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guess {
    /// The task; none where the evidence speaks for no task, or for several.
    pub task: Option<Task>,
    /// The reason, in words.
    pub why: String,
    /// The tasks that it may be for, where the evidence speaks for several.
    pub candidates: Vec<Task>,
    /// What the outputs are instead of scores of classes; the task is then one that the model's folder tells.
    pub instead: Option<Instead>,
}

/// What outputs are that no task here is trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// What the model was made for.
    pub what: &'static str,
    /// Whether a task that somebody names does not change it.
    pub is_certain: bool,
    /// What to do about it; may be empty.
    pub hint: &'static str,
    /// The tasks that such a model is trained for, where somebody names one.
    pub tasks: &'static [Task],
}
