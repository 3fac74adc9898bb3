//! What is asked of a loss, and which of it goes with which loss: one row an option.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::adapter::config::Pooling;
use crate::anatomy::{Reads, Task};
use crate::error::{OnlyWith, Result};
use crate::ir::Graph;
use crate::train::distillation::{self, Distillation, Divergence};

/// What is asked of the loss.
#[derive(Clone, Debug, Default)]
pub struct LossRequest {
    /// The loss by name; the task's first by default.
    pub name: Option<String>,
    /// A graph with the loss, in place of a name.
    pub graph: Option<LossSource>,
    /// Options of the loss.
    pub options: BTreeMap<String, f64>,
    /// How a text's vector is made of its tokens'.
    pub pooling: Option<Pooling>,
    /// Whether vectors have length 1.
    pub normalize: Option<bool>,
    /// Lengths at which vectors are compared.
    pub matryoshka: Vec<i64>,
    /// The weight of each class.
    pub class_weights: Vec<f64>,
    /// Weights that make all classes of the training data count alike.
    pub balances_classes: bool,
    /// How much of each target is spread over all classes.
    pub label_smoothing: f64,
    /// What is learnt from a teacher.
    pub distillation: Option<Distillation>,
    /// A model whose logits are learnt from, in place of a column of the data.
    pub teacher: Option<PathBuf>,
    /// What stands before the texts of a column.
    pub prompts: Vec<(String, String)>,
}

/// Where a loss of one's own is.
#[derive(Clone, Debug)]
pub enum LossSource {
    /// In an ONNX file.
    File(PathBuf),
    /// In memory.
    Graph(Box<Graph>),
}

impl From<Graph> for LossSource {
    fn from(graph: Graph) -> Self {
        Self::Graph(Box::new(graph))
    }
}

/// A loss that options are held against.
struct Case {
    /// Its name, or nothing for a graph that somebody wrote.
    name: Option<String>,
    reads: Reads,
}

impl Case {
    fn is_cross_entropy(&self, of: &[Reads]) -> bool {
        self.name.as_deref() == Some("cross-entropy") && of.contains(&self.reads)
    }

    /// Whether a teacher's answer is compared with.
    fn has_teacher(&self) -> bool {
        self.name.as_deref().is_some_and(|name| Divergence::of(self.reads, name).is_some())
    }

    /// Whether a model may say what the labels are to be compared with.
    fn has_model_as_teacher(&self) -> bool {
        self.has_teacher() || self.name.as_deref().is_some_and(|name| distillation::is_of_texts(self.reads, name))
    }

    fn is_of_vectors(&self) -> bool {
        self.name.is_some() && self.reads == Reads::Embeddings
    }
}

/// Losses that have a teacher's answer to compare with.
const TEACHABLE: &str = "a loss of classes, tokens, truths, numbers or answers (cross-entropy, focal, bce, mse, mae, huber)";

/// The same, and those that compare texts with what a model says of them.
const TAUGHT: &str = "a loss of classes, tokens, truths, numbers or answers (cross-entropy, focal, bce, mse, mae, huber), or mse and margin-mse of embeddings";

const CLASSES: &[Reads] = &[Reads::Logits, Reads::TokenLogits];

/// The options that not every loss has. Options by name (`LossRequest::options`) are those of the loss's own row.
#[rustfmt::skip]
static OPTIONS: &[OnlyWith<LossRequest, Case>] = &[
    OnlyWith { option: "label_smoothing", is_given: |asked| asked.label_smoothing != 0.0,     with: "a cross-entropy",                          holds: |case| case.is_cross_entropy(&[Reads::Vocabulary, Reads::Logits, Reads::TokenLogits, Reads::Spans]) },
    OnlyWith { option: "class_weights balanced", is_given: |asked| asked.balances_classes,           with: "the cross-entropy of classes",             holds: |case| case.is_cross_entropy(CLASSES) },
    OnlyWith { option: "class_weights",   is_given: |asked| !asked.class_weights.is_empty(),  with: "the cross-entropy of classes or tokens",   holds: |case| case.is_cross_entropy(&[Reads::Vocabulary, Reads::Logits, Reads::TokenLogits]) },
    OnlyWith { option: "distill_weight",  is_given: |asked| asked.distillation.is_some(),     with: TEACHABLE, holds: Case::has_teacher },
    OnlyWith { option: "teacher",         is_given: |asked| asked.teacher.is_some(),          with: TAUGHT, holds: Case::has_model_as_teacher },
    OnlyWith { option: "matryoshka_dims", is_given: |asked| !asked.matryoshka.is_empty(),     with: "a loss of vectors (the task embedding) but mse, whose teacher's vectors have one length", holds: |case| case.is_of_vectors() && case.name.as_deref() != Some("mse") },
    OnlyWith { option: "normalize",       is_given: |asked| asked.normalize.is_some(),        with: "a loss of vectors (the task embedding)",   holds: Case::is_of_vectors },
    OnlyWith { option: "prompt",          is_given: |asked| !asked.prompts.is_empty(),        with: "a task of texts in columns of their own (embedding)", holds: |case| case.reads == Reads::Embeddings },
    OnlyWith { option: "loss_option",     is_given: |asked| !asked.options.is_empty(),        with: "a loss of the task, not a graph",          holds: |case| case.name.is_some() },
];

/// Refuses options that do not go with a task's loss; `name` is nothing for a graph that somebody wrote.
///
/// # Errors
/// The first that does not.
pub(super) fn check(asked: &LossRequest, task: Task, name: Option<&str>) -> Result<()> {
    let case = Case { name: name.map(str::to_owned), reads: task.row().reads };
    OnlyWith::check(OPTIONS, asked, &case, format!("the loss {} of {task}", name.unwrap_or("in a graph")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::TASKS;

    type Give = fn(&mut LossRequest);

    /// Each option, given.
    static GIVEN: &[(&str, Give)] = &[
        ("label_smoothing", |asked| asked.label_smoothing = 0.1),
        ("class_weights balanced", |asked| asked.balances_classes = true),
        ("class_weights", |asked| asked.class_weights = vec![1.0, 2.0]),
        ("distill_weight", |asked| asked.distillation = Some(Distillation { weight: 0.5, temperature: 1.0 })),
        ("teacher", |asked| asked.teacher = Some("teacher.onnx".into())),
        ("matryoshka_dims", |asked| asked.matryoshka = vec![8]),
        ("normalize", |asked| asked.normalize = Some(false)),
        ("prompt", |asked| asked.prompts = vec![("anchor".to_owned(), "query: ".to_owned())]),
        ("loss_option", |asked| _ = asked.options.insert("scale".to_owned(), 20.0)),
    ];

    #[test]
    fn every_option_is_taken_or_refused_by_every_loss_of_every_task() {
        assert!(OPTIONS.iter().map(|row| row.option).eq(GIVEN.iter().map(|(option, _)| *option)));
        for task in TASKS {
            for name in task.losses.iter().map(|name| Some(*name)).chain([None]) {
                assert!(check(&LossRequest::default(), task.task, name).is_ok());
                for (row, (option, give)) in OPTIONS.iter().zip(GIVEN) {
                    let mut asked = LossRequest::default();
                    give(&mut asked);
                    let is_taken = (row.holds)(&Case { name: name.map(str::to_owned), reads: task.reads });
                    let checked = check(&asked, task.task, name);
                    assert_eq!(checked.is_ok(), is_taken, "{option} with {name:?} of {}", task.name);
                    if let Err(error) = checked {
                        assert!(error.to_string().starts_with(option) && error.hint().is_some(), "{error}");
                    }
                }
            }
        }
        let refused = |asked: &LossRequest, task, name| check(asked, task, Some(name)).unwrap_err().to_string();
        let smoothed = LossRequest { label_smoothing: 0.1, ..LossRequest::default() };
        assert_eq!(
            refused(&smoothed, Task::Embedding, "mnrl"),
            "label_smoothing: expected a cross-entropy, found the loss mnrl of embedding"
        );
    }
}
