//! Whether a model writes text: whether it has a score for each token that may come next.

use super::super::{Anatomy, Head, Sight};
use super::evidence::{Declared, View};
use super::others::DECODER_ALONE;
use super::{Task, guess, of_graph, predicts_vocabulary};
use crate::error::{Error, Result};
use crate::ir::Graph;

/// What to do with a model that writes nothing.
const HINT: &str = "`peft-onnx predict` answers the rows of a file with it";

impl Task {
    /// Whether a model that was trained for it has scores of the tokens that come next.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::CausalLm | Self::Seq2SeqLm | Self::SpeechSeq2Seq | Self::Preference)
    }

    /// Refuses to write text with a model that was trained for another task.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), unless the task [`writes`](Self::writes).
    pub fn check_writes(self) -> Result<()> {
        if self.writes() { Ok(()) } else { Err(refusal(format!("its task is {self}"))) }
    }
}

/// Refuses to write text with what gives no scores of the tokens that come next: a decoder without its encoder, classes, vectors, hidden tokens.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with what the outputs are instead.
pub fn check_writes(graph: &Graph, anatomy: &Anatomy, declared: &Declared) -> Result<()> {
    let view = View::new(graph, anatomy, declared);
    if let Some(why) = (DECODER_ALONE.evidence)(&view) {
        return Err(Error::unsupported(format!("writing text with {}", DECODER_ALONE.what), why).with_hint(DECODER_ALONE.hint));
    }
    let is_declared = declared.task().is_some_and(Task::writes);
    // A graph says less than its name does of what is not recognised in it.
    if let Some(head) = anatomy.head.as_ref().filter(|head| has_next_tokens(anatomy, head)) {
        let own = of_graph(&view, head);
        return match own.task.filter(|task| *task == Task::MaskedLm && !is_declared) {
            None => Ok(()),
            Some(task) => Err(refusal(made_for(task.name(), &own.why))),
        };
    }
    let guess = guess(graph, anatomy, declared);
    let is_called_logits = view.outputs.iter().any(|name| name.ends_with("logits"));
    // Scores of no projection that is known (a table of next words) may be of anything.
    let is_untold = anatomy.head.as_ref().is_some_and(|head| head.projection.is_none() && head.classes.is_none());
    let may_write = match (guess.task, &guess.instead) {
        (_, Some(_)) => false,
        (Some(task), None) => task.writes() || is_declared || (task == Task::TokenCls && is_untold),
        (None, None) => is_declared || guess.candidates.iter().any(|task| task.writes()) || (anatomy.head.is_none() && is_called_logits),
    };
    let what = guess.instead.map(|instead| instead.what).or(guess.task.map(Task::name));
    if may_write { Ok(()) } else { Err(refusal(what.map_or_else(|| guess.why.clone(), |what| made_for(what, &guess.why)))) }
}

/// Whether scores are those of tokens: as many as tokens of the table, or, where positions see only what came before, nearly as many.
fn has_next_tokens(anatomy: &Anatomy, head: &Head) -> bool {
    let rows = anatomy.token_embedding.map(|at| anatomy.embeddings[at].rows);
    let is_most = || head.classes.zip(rows).is_some_and(|(classes, rows)| classes * 2 > rows);
    predicts_vocabulary(anatomy, head) || (anatomy.sight() == Sight::Back && is_most())
}

fn made_for(what: &str, why: &str) -> String {
    format!("it looks made for {what}: {why}")
}

fn refusal(why: String) -> Error {
    Error::unsupported("writing text with this model", why).with_hint(HINT)
}
