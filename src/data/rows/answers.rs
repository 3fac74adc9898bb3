//! Questions whose answers are spans of a text (transformers' `run_qa.py`).

use std::sync::Arc;

use serde_json::Value;

use crate::data::encoder::Encoder;
use crate::data::example::{Context, Example, Labels, Numbers};
use crate::data::fields::{Fields, describe, json, string};
use crate::error::{Error, Result};
use crate::train::losses::{END_POSITIONS, START_POSITIONS};

/// `{"question", "context", "answers": {"text": [..], "answer_start": [..]}}`. An answer that was cut off, or none, is at the first token.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let (question, context) = (required(fields, "question")?, required(fields, "context")?);
    let answers = answers(fields, context)?;
    let length = encoder.reading.max_length.or(encoder.reading.limits.positions);
    let tokens = encoder.tokenizer()?.encode_question(question, context, length)?;
    let of_context: Vec<usize> = (0..tokens.ids.len()).filter(|&at| tokens.texts[at] == Some(1) && !tokens.spans[at].is_empty()).collect();
    let place = answers.first().and_then(|answer| {
        let (from, to) = (answer.start, answer.start + answer.text.len());
        let start = of_context.iter().copied().find(|&at| tokens.spans[at].end > from)?;
        let end = of_context.iter().rev().copied().find(|&at| tokens.spans[at].start < to)?;
        let is_whole = tokens.spans[start].start < to && tokens.spans[end].end >= to && start <= end;
        is_whole.then_some((start, end))
    });
    let (start, end) = place.unwrap_or((0, 0));
    let number = |at: usize| Numbers { shape: vec![], values: vec![crate::measure::float(at)] };
    let kept = Context {
        text: context.to_owned(),
        spans: of_context.iter().map(|&at| (at, tokens.spans[at].clone())).collect(),
        answers: answers.into_iter().map(|answer| answer.text).collect(),
    };
    let mut example = Example { input_ids: tokens.ids, token_type_ids: tokens.segments, labels: Labels::Column, ..Example::default() };
    example.columns.insert(START_POSITIONS.to_owned(), number(start));
    example.columns.insert(END_POSITIONS.to_owned(), number(end));
    example.context = Some(Arc::new(kept));
    Ok(example)
}

struct Found {
    text: String,
    /// In bytes of the context.
    start: usize,
}

fn answers(fields: &Fields, context: &str) -> Result<Vec<Found>> {
    let Some(value) = fields.get("answers").filter(|value| !value.is_null()) else { return Err(Error::not_found("column", "answers")) };
    let value = json(value);
    let (Some(texts), Some(starts)) = (value["text"].as_array(), value["answer_start"].as_array()) else {
        return Err(Error::mismatch("answers", "{\"text\": [..], \"answer_start\": [..]}", describe(&value)));
    };
    let answer = |(text, start): (&Value, &Value)| {
        let text = text.as_str().ok_or_else(|| Error::mismatch("answers", "texts", describe(text)))?;
        let characters = start.as_u64().and_then(|start| usize::try_from(start).ok());
        let byte = characters.and_then(|start| context.char_indices().map(|(at, _)| at).chain([context.len()]).nth(start));
        let place = byte.filter(|&at| context[at..].starts_with(text));
        let start = place.ok_or_else(|| {
            let error = Error::mismatch("an answer", format!("{text:?} at character {start} of the context"), "another text there");
            error.with_hint("answer_start counts characters from 0, and the answer's text stands there in the context letter by letter")
        })?;
        Ok(Found { text: text.to_owned(), start })
    };
    texts.iter().zip(starts).map(answer).collect()
}

fn required<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    if fields.contains_key(column) { string(fields, column) } else { Err(Error::not_found("column", column)) }
}
