//! Pictures and sounds as files beside the data.

use serde_json::Value;

use crate::anatomy::Role;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels};
use crate::data::fields::{Fields, describe, string};
use crate::data::tokenizer::Specials;
use crate::error::{Error, Result};

/// `{"image": path, "label"}`.
pub(super) fn image(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    Ok(Example { labels: Labels::Class(encoder.class(fields)?), ..picture(fields, encoder)? })
}

/// `{"image": path}`.
pub(super) fn picture(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "image")?);
    Ok(Example { media: Some(encoder.processors.picture(encoder.reading.media, &path)?), ..Example::default() })
}

/// `{"audio": path, "label"}`.
pub(super) fn sound(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    Ok(Example { labels: Labels::Class(encoder.class(fields)?), ..recording(fields, encoder)? })
}

/// `{"audio": path, "text"}` for a model with a symbol for each frame: the text's symbols, without any that begin or end it.
pub(super) fn transcribed_frames(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = text(fields)?;
    let tokenizer = encoder.tokenizer()?;
    let tokens = tokenizer.encode(text, Specials::Added)?;
    encoder.note_unheard(text, &tokens, tokenizer.unknown());
    Ok(Example { labels: Labels::Tokens(tokens.ids), texts: vec![text.to_owned()], ..recording(fields, encoder)? })
}

/// `{"audio": path, "text"}` for a model whose decoder writes the text.
pub(super) fn transcribed(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = text(fields)?;
    Ok(Example { labels: Labels::Tokens(encoder.written(text)?), texts: vec![text.to_owned()], ..recording(fields, encoder)? })
}

/// `{"image": path, "text"}` for a model whose decoder writes the text.
pub(super) fn read_image(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = text(fields)?;
    let labels = Labels::Tokens(encoder.written(text)?);
    Ok(Example { labels, texts: vec![text.to_owned()], ..picture(fields, encoder)? })
}

/// A row with its sound: the samples, and the mask of the samples if the model has an input for it.
pub(super) fn recording(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "audio")?);
    let inputs = || encoder.reading.feeding.into_iter().flat_map(|feeding| &feeding.inputs);
    let own = inputs().find(|(_, role)| **role == Role::Column).map_or("input_values", |(name, _)| name.as_str());
    let mask = inputs().find(|(_, role)| matches!(role, Role::AttentionMask(_))).map(|(name, _)| name.as_str());
    Ok(Example { media: Some(encoder.processors.sound(encoder.reading.media, &path, own, mask)?), ..Example::default() })
}

fn text(fields: &Fields) -> Result<&str> {
    let missing =
        || Error::not_found("column", "text").with_hint("text is what is said or written there; `map COLUMN=text` says which column it is");
    if fields.get("text").is_none_or(Value::is_null) { Err(missing()) } else { string(fields, "text") }
}

fn path<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    let hint = || format!("{column} is a file's path, from the data file's folder");
    match fields.get(column) {
        Some(Value::String(path)) if !path.trim().is_empty() => Ok(path),
        // As a list, as data of several pictures a row has it.
        Some(Value::Array(paths)) if matches!(&paths[..], [Value::String(_)]) => Ok(paths[0].as_str().unwrap_or_default()),
        None | Some(Value::Null | Value::String(_)) => Err(Error::not_found("column", column).with_hint(hint())),
        Some(other) => Err(Error::mismatch(column, "a file's path", describe(other)).with_hint(hint())),
    }
}
