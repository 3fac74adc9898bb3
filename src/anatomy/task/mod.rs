//! What a model was made for: from the axes and the names of its outputs, its masks, its head, and what its folder says of it.

mod evidence;
mod guessed;
mod others;
mod table;
#[cfg(test)]
mod tests;
mod writes;

use crate::error::{Error, Result};
use crate::ir::{Fact, Graph};

use super::{Anatomy, Head, Sight};
use evidence::View;
use others::{OTHERS, Other};

pub use evidence::{Declared, Feeds};
pub use guessed::{Guess, Instead};
pub use table::{Modality, Reads, Row, TASKS, Task};
pub use writes::check_writes;

/// A task that a model is trained for, and what speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The task.
    pub task: Task,
    /// What the evidence says instead, where a task was asked for.
    pub doubt: Option<String>,
}

/// The task that a model without a new head is trained for: the one `asked` for if the model fits it, else the one that all evidence points to.
///
/// # Errors
/// Outputs that no task is trained on, with what they are; evidence for several tasks, with their names; logits without the axes of the task.
pub fn decide(graph: &Graph, anatomy: &Anatomy, declared: &Declared, asked: Option<Task>) -> Result<Decision> {
    let guess = guess(graph, anatomy, declared);
    let view = View::new(graph, anatomy, declared);
    // Of what no task is told by the graph, the folder may tell one.
    let wanted = asked.or(guess.task.filter(|_| guess.instead.is_some()));
    let is_meant = |instead: &Instead| wanted.is_some_and(|task| instead.tasks.contains(&task));
    let certain = others(&view).find(|(instead, _)| instead.is_certain && !is_meant(instead));
    let first = || guess.instead.clone().zip(Some(guess.why.clone()));
    // Where nobody names a task the first evidence tells; where somebody does, only what is certain holds against it.
    if let Some((instead, why)) = first().filter(|_| wanted.is_none()).or(certain) {
        return Err(refusal(&instead, &why));
    }
    let Some(task) = asked.or(guess.task) else { return Err(unknown(&guess)) };
    check_axes(task, graph, anatomy, &guess)?;
    let is_same =
        |other: Task| other == task || (is_for_rows(task) && is_for_rows(other)) || (task, other) == (Task::Preference, Task::CausalLm);
    let instead = guess.instead.as_ref().filter(|instead| !is_meant(instead));
    // What a task reads beside logits is looked for where its loss is settled.
    let is_of_logits = !matches!(task.row().reads, Reads::Spans | Reads::Embeddings);
    if !is_of_logits {
        return Ok(Decision { task, doubt: None });
    }
    let what = instead.map(|instead| instead.what).or_else(|| guess.task.filter(|&other| !is_same(other)).map(Task::name));
    Ok(Decision { task, doubt: what.map(|what| format!("the model looks made for {what}: {}", guess.why)) })
}

/// The task that is meant where PEFT's name of one is all that is said, which several tasks have in common (`SEQ_CLS`): of these the one that the model
/// and its folder speak for.
#[must_use]
pub fn meant(graph: &Graph, anatomy: &Anatomy, declared: &Declared, named: Task) -> Task {
    let is_one = |task: &Task| task.task_type() == named.task_type() || (is_for_rows(*task) && is_for_rows(named));
    guess(graph, anatomy, declared).task.or_else(|| declared.kind_of_labels()).filter(is_one).unwrap_or(named)
}

fn is_for_rows(task: Task) -> bool {
    task.scores_rows()
}

/// Names of all tasks, for people.
fn names(tasks: impl Iterator<Item = Task>) -> String {
    tasks.map(Task::name).collect::<Vec<_>>().join(", ")
}

fn refusal(instead: &Instead, why: &str) -> Error {
    let new_head = "`num_labels N` puts a classifier on the model's body";
    let trained = names(instead.tasks.iter().copied());
    let hint = match (instead.hint, instead.is_certain) {
        (hint, true) if !hint.is_empty() => hint.to_owned(),
        _ if !trained.is_empty() => format!("say with `task` what it is trained for: {trained}; {new_head} in place of its own outputs"),
        ("", true) => format!("{new_head} in place of its own outputs"),
        ("", false) => {
            format!(
                "{new_head}; if they are scores of classes all the same, say with `task` which: {}",
                names(TASKS.iter().map(|row| row.task))
            )
        }
        (hint, _) => hint.to_owned(),
    };
    let untold = if trained.is_empty() || !instead.hint.is_empty() { "" } else { " without being told to" };
    Error::unsupported(format!("training a model for {}{untold}", instead.what), why.to_owned()).with_hint(hint)
}

fn unknown(guess: &Guess) -> Error {
    let candidates = if guess.candidates.is_empty() { TASKS.iter().map(|row| row.task).collect() } else { guess.candidates.clone() };
    let hint = format!("name the task with `task`: {}; a body without a head gets one with `num_labels`", names(candidates.into_iter()));
    Error::unsupported("finding out the task", guess.why.clone()).with_hint(hint)
}

/// Checks that a graph's logits have the axes of a task: scores for a whole row, `[batch, classes]`, or for each of its tokens, `[batch, seq, scores]`.
fn check_axes(task: Task, graph: &Graph, anatomy: &Anatomy, guess: &Guess) -> Result<()> {
    let Some(head) = &anatomy.head else { return Ok(()) };
    let is_of_one = matches!(task, Task::Rerank | Task::Reward);
    if let Some(classes) = head.classes.filter(|classes| is_of_one && *classes != 1) {
        let error = Error::mismatch(
            format!("{} for {task}", graph.value_name(head.output)),
            "one score for each text, [batch, 1]",
            format!("{classes} scores"),
        );
        return Err(error.with_hint("`num_labels 1` puts a head with one score on the model's body, in place of its own"));
    }
    let (axes, scores) = match task.row().reads {
        Reads::Logits => (2, "[batch, classes]"),
        Reads::TokenLogits | Reads::Frames | Reads::Vocabulary | Reads::TokenLogProbs => (3, "[batch, seq, scores]"),
        Reads::Spans | Reads::Embeddings => return Ok(()),
    };
    let found = head.axes(graph);
    if found.as_ref().is_none_or(|found| found.len() == axes) {
        return Ok(());
    }
    let error = Error::mismatch(
        format!("{} for {task}", graph.value_name(head.output)),
        scores,
        Fact::partial(graph.fact(head.logits).dtype, found),
    );
    let made_for = guess.task.map(|task| format!("the graph looks made for {task}")).unwrap_or_default();
    let new_head = if is_for_rows(task) { "; `num_labels` puts a new head on it" } else { "" };
    Err(error.with_hint(format!("{made_for}{new_head}")))
}

/// The task that anatomy, shapes, names and the model's folder speak for.
#[must_use]
pub fn guess(graph: &Graph, anatomy: &Anatomy, declared: &Declared) -> Guess {
    let view = View::new(graph, anatomy, declared);
    if let Some((instead, why)) = others(&view).next() {
        let task = view.told().filter(|task| instead.tasks.contains(task));
        return Guess { task, instead: Some(instead), why, ..Guess::default() };
    }
    let Some(head) = &anatomy.head else {
        return Guess { why: no_head(anatomy), ..Guess::default() };
    };
    reconciled(of_graph(&view, head), &view)
}

/// Everything that the outputs may be that no task is trained on, and why.
fn others<'v>(view: &'v View<'_>) -> impl Iterator<Item = (Instead, String)> + 'v {
    let row = |other: &Other| Instead { what: other.what, is_certain: other.is_certain, hint: other.hint, tasks: other.tasks };
    OTHERS.iter().filter_map(move |other| Some((row(other), (other.evidence)(view)?)))
}

/// Why no head was found.
fn no_head(anatomy: &Anatomy) -> String {
    let miss = anatomy.misses.iter().find(|miss| miss.wanted.starts_with("a head: ") || miss.wanted.starts_with("scores of classes"));
    let found = miss.map(|miss| format!("; {} is not {}", miss.at, miss.wanted));
    format!("no output is what one last projection makes{}", found.unwrap_or_default())
}

/// What the graph itself speaks for.
fn of_graph(view: &View<'_>, head: &Head) -> Guess {
    let anatomy = view.anatomy;
    let logits = view.graph.value_name(head.output);
    let because = |task, why: &str| Guess { task: Some(task), why: format!("{logits} {why}"), ..Guess::default() };
    let either =
        |candidates: &[Task], why: &str| Guess { why: format!("{logits} {why}"), candidates: candidates.to_vec(), ..Guess::default() };
    let rank = view.axes().map(|axes| axes.len());
    // Characters may be as many as tokens.
    let spells = rank == Some(3) && view.declared.is("ForCTC");
    if (predicts_vocabulary(anatomy, head) && !spells) || anatomy.inputs.decoder_input_ids.is_some() {
        let cross = anatomy.inputs.decoder_input_ids.is_some() || anatomy.attentions.iter().any(|attention| attention.cross);
        return match anatomy.sight() {
            _ if cross && view.hears() => {
                because(Task::SpeechSeq2Seq, "has a score for each token of the vocabulary, and a decoder looks at an encoder of sound")
            }
            _ if cross => because(Task::Seq2SeqLm, "has a score for each token of the vocabulary, and a decoder looks at an encoder"),
            Sight::Back => because(Task::CausalLm, "has a score for each token of the vocabulary, and no position sees later ones"),
            Sight::BothWays => {
                because(Task::MaskedLm, "has a score for each token of the vocabulary, and positions see each other both ways")
            }
            Sight::Unknown => either(
                &[Task::CausalLm, Task::MaskedLm],
                "has a score for each token of the vocabulary, and it cannot be told whether positions see later ones",
            ),
        };
    }
    let (task, what) = match rank {
        Some(3) if spells => (Task::Ctc, "has a score for each character at each frame of a sound"),
        Some(3) => (Task::TokenCls, "has a score for each class at each position"),
        _ => match view.feeds.classified() {
            task @ Task::ImageCls => (task, "has a score for each class, for an image"),
            task @ Task::AudioCls => (task, "has a score for each class, for a sound"),
            task => (task, "has a score for each class, for a whole text"),
        },
    };
    if view.is_any_prediction(head) && is_for_rows(task) {
        either(
            &[task, Task::Regression, Task::MultiLabel],
            "may be numbers as well as scores of classes: neither its name nor its module tells",
        )
    } else if view.shows_classes(head) {
        because(task, what)
    } else {
        either(&[task], "may be a vector as well as scores of classes: neither its name nor the last projection, which adds no bias, tells")
    }
}

/// What the graph and the class that it was exported from speak for together.
fn reconciled(guess: Guess, view: &View<'_>) -> Guess {
    let Some(declared) = view.declared.task() else { return guess };
    let says = format!("config.json beside the model says {}", view.declared.architecture.as_deref().unwrap_or_default());
    let is_rows = Task::is_one_class;
    let writes = |task: Task| matches!(task, Task::Seq2SeqLm | Task::SpeechSeq2Seq);
    match guess.task {
        Some(task) if task == declared || (is_rows(task) && is_rows(declared)) || (writes(task) && writes(declared)) => guess,
        None if guess.candidates.contains(&declared) || guess.candidates.is_empty() => {
            Guess { task: Some(declared), why: format!("{says}; {}", guess.why), ..guess }
        }
        // A class for each token of a text: as many as there are tokens in the vocabulary is rare, but said.
        Some(task) if is_rows(task) != is_rows(declared) => guess,
        Some(task) => {
            let why = format!("{says}, but {}", guess.why);
            Guess { task: None, why, candidates: vec![task, declared], instead: None }
        }
        None => guess,
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
