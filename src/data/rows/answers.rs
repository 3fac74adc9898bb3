//! Questions whose answers are spans of a text (transformers' `run_qa.py`): a window of the text for each input, where it is parted.

use std::sync::Arc;

use serde_json::Value;

use crate::data::encoder::Encoder;
use crate::data::example::{Context, Example, Labels, Numbers};
use crate::data::fields::{Fields, describe, empty_text, json, string};
use crate::data::tokens::Tokens;
use crate::error::{Error, Result};
use crate::train::losses::{END_POSITIONS, START_POSITIONS};

/// `{"question", "context", "answers": {"text": [..], "answer_start": [..]}}`: the windows of the context. An answer that is not in a window as a
/// whole, or none, is at the window's first token.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<Example>> {
    let answers = answers(fields, required(fields, "context")?)?;
    windows(fields, &answers, encoder)
}

/// The windows of a text in which the answer to a question is looked for.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<Example>> {
    windows(fields, &[], encoder)
}

fn windows(fields: &Fields, answers: &[MarkedText], encoder: &Encoder<'_>) -> Result<Vec<Example>> {
    let (question, context) = (required(fields, "question")?, required(fields, "context")?);
    let length = encoder.reading.max_length.or(encoder.reading.limits.positions);
    let windows = encoder.tokenizer()?.encode_question(question, context, length, encoder.reading.stride)?;
    let text: Arc<str> = context.into();
    let texts: Arc<[String]> = answers.iter().map(|answer| answer.text.clone()).collect();
    let window = |tokens: Tokens| {
        let of_context: Vec<usize> = (0..tokens.ids.len()).filter(|&at| tokens.texts[at] == Some(1)).collect();
        let (start, end) = answers.first().and_then(|answer| place(answer, &tokens, &of_context)).unwrap_or((0, 0));
        let number = |at: usize| Numbers { shape: vec![], values: vec![crate::measure::float(at)] };
        let spans = of_context.iter().map(|&at| (at, tokens.spans[at].clone())).collect();
        let kept = Context { text: text.clone(), spans, answers: texts.clone() };
        let columns = [(START_POSITIONS.to_owned(), number(start)), (END_POSITIONS.to_owned(), number(end))].into();
        Example { labels: Labels::Column, columns, context: Some(Arc::new(kept)), ..tokens.into() }
    };
    Ok(windows.into_iter().map(window).collect())
}

/// The first and the last token of an answer, if the window has all of it. Where several tokens stand for one character, the first is the last of those
/// that begin at or before the answer, and the last is the first of those at the window's end that reach the answer's end (`prepare_train_features`).
fn place(answer: &MarkedText, tokens: &Tokens, of_context: &[usize]) -> Option<(usize, usize)> {
    let (from, to) = (answer.start, answer.start + answer.text.len());
    let start = of_context.iter().copied().take_while(|&at| tokens.spans[at].start <= from).last()?;
    let end = of_context.iter().rev().copied().take_while(|&at| tokens.spans[at].end >= to).last()?;
    Some((start, end))
}

struct MarkedText {
    text: String,
    /// In bytes of the context.
    start: usize,
}

/// What answers look like.
const FORM: &str = "answers are {\"text\": [\"Paris\"], \"answer_start\": [10]}, with empty lists where there is no answer";

fn answers(fields: &Fields, context: &str) -> Result<Vec<MarkedText>> {
    let Some(value) = fields.get("answers").filter(|value| !value.is_null()) else {
        let error = Error::not_found("column", "answers");
        return Err(error.with_hint(FORM));
    };
    let value = json(value);
    let (Some(texts), Some(starts)) = (value["text"].as_array(), value["answer_start"].as_array()) else {
        let error = Error::mismatch("answers", "{\"text\": [..], \"answer_start\": [..]}", describe(&value));
        return Err(error.with_hint(FORM));
    };
    if texts.len() != starts.len() {
        let error = Error::mismatch("answer_start", format!("{}, one for each text of answers", texts.len()), starts.len());
        return Err(error.with_hint(FORM));
    }
    let answer = |(text, start): (&Value, &Value)| {
        let text = text.as_str().ok_or_else(|| Error::mismatch("answers", "texts", describe(text)))?;
        if text.trim().is_empty() {
            return Err(empty_text("answers").with_hint("where there is no answer, both lists are empty"));
        }
        let characters = start.as_u64().and_then(|start| usize::try_from(start).ok());
        let byte = characters.and_then(|start| context.char_indices().map(|(at, _)| at).chain([context.len()]).nth(start));
        let place = byte.filter(|&at| context[at..].starts_with(text));
        let start = place.ok_or_else(|| {
            let error = Error::mismatch("an answer", format!("{text:?} at character {start} of the context"), "another text there");
            error.with_hint(match context.find(text) {
                Some(byte) => format!("it stands at character {}: answer_start counts characters from 0", context[..byte].chars().count()),
                None => "the answer's text stands nowhere in the context, letter by letter".to_owned(),
            })
        })?;
        Ok(MarkedText { text: text.to_owned(), start })
    };
    texts.iter().zip(starts).map(answer).collect()
}

fn required<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    if !fields.contains_key(column) {
        return Err(
            Error::not_found("column", column).with_hint("a row has question, context and answers; `map COLUMN=ROLE` says which is which")
        );
    }
    let text = string(fields, column)?;
    if text.trim().is_empty() { Err(empty_text(column)) } else { Ok(text) }
}
