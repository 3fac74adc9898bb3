//! What a model was made for, from the shape of its predictions and from its masks.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::ir::Graph;

use super::{Anatomy, Head};

/// What a model is trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// The next token at each position.
    CausalLm,
    /// The hidden tokens.
    MaskedLm,
    /// A class for each text.
    SeqCls,
    /// A class for each token.
    TokenCls,
    /// A class for each image.
    ImageCls,
    /// The next token of a text that answers another.
    Seq2SeqLm,
}

/// A task, and what it was concluded from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guess {
    /// The task; none where only hidden states come out.
    pub task: Option<Task>,
    /// The reason, in words.
    pub why: String,
}

/// Tasks by the names that the command line and the manifest use.
const NAMES: &[(Task, &str)] = &[
    (Task::CausalLm, "causal-lm"),
    (Task::MaskedLm, "masked-lm"),
    (Task::SeqCls, "seq-cls"),
    (Task::TokenCls, "token-cls"),
    (Task::ImageCls, "image-cls"),
    (Task::Seq2SeqLm, "seq2seq-lm"),
];

impl Task {
    /// The task's name: `causal-lm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }

    /// The task of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(task, _)| *task)
    }

    /// Whether labels are tokens, one for each position.
    #[must_use]
    pub fn predicts_tokens(self) -> bool {
        matches!(self, Self::CausalLm | Self::MaskedLm | Self::Seq2SeqLm)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| {
            let all: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            Error::not_found("task", name).with_hint(format!("tasks are {}", all.join(", ")))
        })
    }
}

/// Checks that a graph's logits have the axes of a task: scores for a whole row, `[batch, classes]`, or for each of its tokens, `[batch, seq, scores]`.
///
/// # Errors
/// [`Mismatch`](crate::ErrorKind::Mismatch) with the logits.
pub fn check_task(task: Task, graph: &Graph, anatomy: &Anatomy) -> Result<()> {
    let Some(head) = &anatomy.head else { return Ok(()) };
    let is_for_rows = matches!(task, Task::SeqCls | Task::ImageCls);
    let (axes, scores) = if is_for_rows { (2, "[batch, classes]") } else { (3, "[batch, seq, scores]") };
    let fact = graph.fact(head.logits);
    if fact.rank().is_none_or(|rank| rank == axes) {
        return Ok(());
    }
    let error = Error::mismatch(format!("{} for {task}", graph.value_name(head.logits)), scores, fact);
    let made_for = anatomy.task.task.map(|task| format!("the graph looks made for {task}")).unwrap_or_default();
    let new_head = if is_for_rows { "; --num-labels puts a new head on it" } else { "" };
    Err(error.with_hint(format!("{made_for}{new_head}")))
}

/// The task that anatomy and shapes speak for.
pub(super) fn guess(graph: &Graph, anatomy: &Anatomy) -> Guess {
    let Some(head) = &anatomy.head else {
        return Guess { task: None, why: "the first output is not what one last projection makes".into() };
    };
    let logits = graph.value_name(head.logits);
    let rank = graph.fact(head.logits).rank();
    let is_vocabulary = predicts_vocabulary(anatomy, head);
    let causal = anatomy.attentions.iter().any(|attention| attention.causal);
    let cross = anatomy.inputs.decoder_input_ids.is_some() || anatomy.attentions.iter().any(|attention| attention.cross);
    let because = |task, why: &str| Guess { task: Some(task), why: format!("{logits} {why}") };
    let takes_pixels = anatomy.inputs.main.is_some_and(|id| graph.fact(id).rank() == Some(4));
    match (is_vocabulary, rank) {
        (true, _) if cross => because(Task::Seq2SeqLm, "has a score for each token of the vocabulary, and a decoder looks at an encoder"),
        (true, _) if causal => because(Task::CausalLm, "has a score for each token of the vocabulary, and no position sees later ones"),
        (true, _) => because(Task::MaskedLm, "has a score for each token of the vocabulary, and positions see each other both ways"),
        (false, Some(3)) => because(Task::TokenCls, "has a score for each class at each position"),
        (false, _) if takes_pixels => because(Task::ImageCls, "has a score for each class, for an image"),
        (false, _) => because(Task::SeqCls, "has a score for each class, for a whole text"),
    }
}

/// Whether there are as many predictions as tokens; exporters and trainers pad one or the other a little.
fn predicts_vocabulary(anatomy: &Anatomy, head: &Head) -> bool {
    const CLASSES: i64 = 2048;
    let rows = anatomy.token_embedding.map(|at| anatomy.embeddings[at].rows);
    match (head.classes, rows) {
        _ if head.tied => true,
        (Some(classes), Some(rows)) => classes == rows || (classes > CLASSES && classes * 2 > rows),
        (Some(classes), None) => classes > CLASSES,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (task, name) in NAMES {
            assert_eq!((name.parse::<Task>().expect("a name from the table"), task.to_string().as_str()), (*task, *name));
        }
        let error = "poetry".parse::<Task>().expect_err("no such task");
        assert!(error.hint().is_some_and(|hint| hint.contains("seq-cls")));
    }
}
