//! Rows as a model reads them: what is learnt in colour, special tokens as they are.

use std::io::Write;

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;

use crate::cli::output::printable;
use crate::data::{Example, IGNORED, Labels};
use crate::error::Result;
use crate::training::Source;

/// Green, grey, and nothing again.
const LEARNT: &str = "\u{1b}[32m";
const SPECIAL: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// A row, in parts of one kind.
#[derive(Serialize)]
pub(super) struct Row {
    line: usize,
    tokens: usize,
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Read,
    Learnt,
    Special,
}

#[derive(Serialize)]
struct Part {
    kind: Kind,
    /// A special token that is learnt, too.
    is_learnt: bool,
    text: String,
}

impl Row {
    /// An example in parts; without a tokenizer its tokens are numbers.
    pub(super) fn of(example: &Example, source: &Source, names: &[String]) -> Result<Self> {
        let special = source.tokenizer().map(|tokenizer| tokenizer.special_tokens()).unwrap_or_default();
        let of_tokens = |at: usize| match &example.labels {
            Labels::Tokens(labels) if labels.len() == example.input_ids.len() => labels[at] != IGNORED,
            _ => false,
        };
        let mut runs: Vec<(Kind, bool, Vec<i32>)> = vec![];
        for (at, &id) in example.input_ids.iter().enumerate() {
            let is_learnt = of_tokens(at);
            let kind = match (special.contains(&id), is_learnt) {
                (true, _) => Kind::Special,
                (false, true) => Kind::Learnt,
                (false, false) => Kind::Read,
            };
            match runs.last_mut() {
                Some((last, learnt, ids)) if *last == kind && *learnt == is_learnt && kind != Kind::Special => ids.push(id),
                _ => runs.push((kind, is_learnt, vec![id])),
            }
        }
        let text = |kind: Kind, ids: &[i32]| match source.tokenizer() {
            Some(tokenizer) if kind == Kind::Special => Ok(ids.iter().filter_map(|&id| tokenizer.token(id)).collect()),
            Some(tokenizer) => tokenizer.decode(ids),
            None => Ok(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        };
        let part = |(kind, is_learnt, ids): (Kind, bool, Vec<i32>)| Ok(Part { kind, is_learnt, text: text(kind, &ids)? });
        let label = match (&example.labels, &example.context) {
            (Labels::Class(class), _) => {
                Some(usize::try_from(*class).ok().and_then(|class| names.get(class).cloned()).unwrap_or_else(|| class.to_string()))
            }
            (_, Some(context)) => Some(context.answers.join(" | ")),
            (Labels::Column, _) => {
                example.columns.get("labels").map(|label| label.values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            _ => None,
        };
        let parts = runs.into_iter().map(part).collect::<Result<_>>()?;
        Ok(Self { line: example.line, tokens: example.input_ids.len(), parts, label })
    }

    fn text(&self, is_coloured: bool) -> String {
        let part = |Part { kind, is_learnt, text }: &Part| {
            let text = printable(text, |letter| letter == '\n');
            match (kind, is_learnt, is_coloured) {
                (_, true, true) => format!("{LEARNT}{text}{PLAIN}"),
                (Kind::Special, false, true) => format!("{SPECIAL}{text}{PLAIN}"),
                (_, true, false) => format!("«{text}»"),
                (_, false, _) => text,
            }
        };
        // A space where the tokenizer's own got lost between two parts.
        let mut shown = String::new();
        for piece in self.parts.iter().map(part) {
            if !shown.is_empty() && !shown.ends_with(char::is_whitespace) && !piece.starts_with(char::is_whitespace) {
                shown.push(' ');
            }
            shown += &piece;
        }
        let label = self.label.as_ref().map(|label| format!(" → {}", printable(label, |_| false))).unwrap_or_default();
        format!("\nline {}, {} tokens{label}\n{shown}\n", self.line, self.tokens)
    }
}

/// Prints text, and rows behind it.
pub(super) fn print(text: &str, rows: &[Row]) -> Result<()> {
    let is_coloured = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    for row in rows {
        write!(out, "{}", row.text(is_coloured))?;
    }
    Ok(out.flush()?)
}
