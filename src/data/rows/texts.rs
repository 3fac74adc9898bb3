//! Texts whose vectors should be near or far from each other.

use serde_json::Value;

use super::values::number;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels, Numbers};
use crate::data::fields::{Fields, empty_text, json};
use crate::error::{Error, Result};
use crate::train::losses::LABELS;

/// `{"anchor", "positive", "negative"?, "negative_1"?, ..}`, or `{"sentence1", "sentence2", "score"}`: each text a row of the model's input, the label
/// beside the first.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let names = columns(fields)?;
    let mut texts = names.iter().map(|&name| text(fields, name, encoder)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut example = texts.next().unwrap_or_default();
    example.others = texts.collect();
    example.group = Some(names.iter().filter_map(|name| fields[*name].as_str()).collect::<Vec<_>>().join("\u{0}"));
    example.texts = names.iter().filter_map(|name| fields[*name].as_str().map(ToOwned::to_owned)).collect();
    match score(fields)? {
        Some(score) => {
            example.labels = Labels::Column;
            example.columns.insert(LABELS.to_owned(), Numbers { shape: vec![], values: vec![score] });
        }
        None if encoder.reading.loss.compares_pairs() => {
            return Err(
                Error::not_found("column", "score").with_hint("this loss compares two texts with a number: sentence1, sentence2, score")
            );
        }
        None => example.labels = Labels::Row,
    }
    let same = example.texts.get(1).and_then(|positive| names.iter().zip(&example.texts).skip(2).find(|(_, text)| *text == positive));
    if let Some((name, _)) = same {
        let error = Error::mismatch((*name).to_owned(), "a text that does not answer the anchor", "the positive itself");
        return Err(error.with_hint("leave the row out, or write another negative: `peft-onnx data mine-negatives` finds some"));
    }
    if example.others.is_empty() {
        return Err(Error::mismatch("texts in this row", "two or more: anchor and positive, or sentence1 and sentence2", 1));
    }
    Ok(example)
}

/// The texts of a row, each with its column: one text, or those of a row that is learnt from.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<(String, Example)>> {
    const SINGLE: [&str; 6] = ["text", "sentence", "sentence1", "sentence2", "anchor", "positive"];
    let is_numbered = |name: &&str| name.strip_prefix("negative_").is_some_and(|number| number.parse::<u32>().is_ok());
    let negatives = fields.keys().map(String::as_str).filter(|name| *name == "negative" || is_numbered(name));
    let names: Vec<&str> = SINGLE.into_iter().filter(|name| fields.contains_key(*name)).chain(negatives).collect();
    if names.is_empty() && fields.contains_key("input_ids") {
        return Ok(vec![("text".to_owned(), encoder.text_or_tokens(fields)?)]);
    }
    if names.is_empty() {
        let found: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        let error = Error::mismatch("columns", "text, or the texts of a row that is learnt from (anchor, positive, ..)", found.join(", "));
        return Err(error.with_hint("`map COLUMN=text` says which column is the text"));
    }
    names.into_iter().map(|name| Ok((name.to_owned(), text(fields, name, encoder)?))).collect()
}

/// The columns with texts, in the order in which losses take them.
fn columns(fields: &Fields) -> Result<Vec<&str>> {
    if fields.contains_key("sentence1") && fields.contains_key("sentence2") {
        return Ok(vec!["sentence1", "sentence2"]);
    }
    let number = |name: &str| name.strip_prefix("negative_").and_then(|number| number.parse::<u32>().ok());
    let mut negatives: Vec<(u32, &str)> = fields.keys().filter_map(|name| Some((number(name)?, name.as_str()))).collect();
    negatives.sort_unstable();
    let named = |name: &'static str| fields.contains_key(name).then_some(name);
    let (Some(anchor), Some(positive)) = (named("anchor"), named("positive")) else {
        let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        let error = Error::mismatch("columns", "anchor + positive (+ negative), or sentence1 + sentence2 + score", names.join(", "));
        return Err(error.with_hint("`map COLUMN=anchor` and `map COLUMN=positive` say which text is which"));
    };
    Ok([anchor, positive].into_iter().chain(named("negative")).chain(negatives.into_iter().map(|(_, name)| name)).collect())
}

fn text(fields: &Fields, name: &str, encoder: &Encoder<'_>) -> Result<Example> {
    let text = fields[name].as_str().ok_or_else(|| Error::mismatch(name.to_owned(), "text", &fields[name]))?;
    if text.trim().is_empty() {
        return Err(empty_text(name));
    }
    let prompt = encoder.reading.loss.prompts.iter().find(|(column, _)| column == name).map_or("", |(_, prompt)| prompt.as_str());
    encoder.plain_text(&format!("{prompt}{text}"))
}

fn score(fields: &Fields) -> Result<Option<f64>> {
    let value = ["score", "label"].into_iter().find_map(|name| fields.get(name)).filter(|value| !matches!(value, Value::Null));
    value.map(|value| number(&json(value))).transpose()
}
