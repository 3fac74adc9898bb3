//! The values of a row's columns.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::example::Numbers;
use super::role_names::ROLES;
use crate::error::{Error, Result};
use crate::files::json::{self as files, Told};

/// The columns of a row.
pub type Fields = Map<String, Value>;

/// What the bytes of a file that are no text are called: the only name of an object.
const BYTES: &str = "base64";

/// Bytes that are no text.
pub(super) fn raw_bytes(bytes: &[u8]) -> Value {
    json!({ BYTES: STANDARD.encode(bytes) })
}

/// Whether a value is bytes that are no text, or has such as Hugging Face's files of pictures and sounds have them (`{"bytes", "path"}`).
pub(super) fn has_bytes(value: &Value) -> bool {
    let is_raw =
        |value: &Value| value.as_object().is_some_and(|fields| fields.len() == 1 && fields.get(BYTES).is_some_and(Value::is_string));
    is_raw(value) || value.get("bytes").is_some_and(is_raw)
}

/// A value for a message.
pub(super) fn describe(value: &Value) -> String {
    if has_bytes(value) { "bytes that are no text".to_owned() } else { files::describe(value) }
}

/// Refuses bytes in columns that are read as something else.
///
/// # Errors
/// The first such column.
pub(super) fn check_bytes(fields: &Fields) -> Result<()> {
    match fields.iter().find(|(name, value)| ROLES.contains(&name.as_str()) && has_bytes(value)) {
        None => Ok(()),
        Some((name, _)) if ["image", "audio"].contains(&name.as_str()) => {
            let error = Error::mismatch(name.clone(), "a file's path", "the bytes of a file");
            Err(error
                .with_hint(format!("write each into a file of its own, and its path, from the data file's folder, into the column {name}")))
        }
        Some((name, value)) => {
            let error = Error::mismatch(name.clone(), "text in UTF-8, or numbers", describe(value));
            Err(error.with_hint("write the column as text, or give another its role with `map`"))
        }
    }
}

/// What a value is, or, of a table's cell, what its text says.
pub(super) fn json(value: &Value) -> Cow<'_, Value> {
    let told = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    told.map_or(Cow::Borrowed(value), |Told(told)| Cow::Owned(told))
}

pub(super) fn string<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    fields[column].as_str().ok_or_else(|| {
        let error = Error::mismatch(column, "text", describe(&fields[column]));
        error.with_hint(format!("write it in quotation marks, or name the column that has the texts: `map COLUMN={column}`"))
    })
}

/// The error about a text of spaces alone.
pub(super) fn empty_text(column: &str) -> Error {
    Error::mismatch(column.to_owned(), "a text", "an empty one").with_hint("leave rows without text out, or name another column with `map`")
}

/// A column of whole numbers; empty if it is absent.
pub(super) fn numbers(fields: &Fields, column: &'static str) -> Result<Vec<i32>> {
    let wrong = |found: &Value| Error::mismatch(column, "a list of whole numbers", describe(found));
    match fields.get(column) {
        None | Some(Value::Null) => Ok(vec![]),
        Some(Value::Array(values)) => values.iter().map(|value| whole(column, value)).collect(),
        Some(Value::String(cell)) if cell.trim().is_empty() => Ok(vec![]),
        // A cell of a table.
        Some(text @ Value::String(cell)) => match serde_json::from_str(cell) {
            Ok(Value::Array(values)) => values.iter().map(|value| whole(column, value)).collect(),
            _ => Err(wrong(text)),
        },
        Some(other) => Err(wrong(other)),
    }
}

pub(super) fn whole(column: &'static str, value: &Value) -> Result<i32> {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Error::mismatch(column, "a whole number", describe(value)))
}

/// A list of lists of numbers, of any depth, as numbers with the length of every axis.
pub(super) fn flatten(value: &Value, depth: usize, into: &mut Numbers, name: &str) -> Result<()> {
    let uneven = || Error::invalid(format!("{name}: rows of different depth"));
    let Value::Array(items) = value else {
        let number = value.as_f64().or_else(|| value.as_bool().map(|flag| f64::from(u8::from(flag)))).filter(|number| number.is_finite());
        into.values.push(number.ok_or_else(|| Error::mismatch(name.to_owned(), "numbers", describe(value)))?);
        return if depth == into.shape.len() { Ok(()) } else { Err(uneven()) };
    };
    if depth == into.shape.len() && into.values.is_empty() {
        into.shape.push(items.len());
    }
    match into.shape.get(depth) {
        Some(length) if *length == items.len() => items.iter().try_for_each(|item| flatten(item, depth + 1, into, name)),
        Some(length) => Err(Error::mismatch(format!("{name}: length of axis {depth}"), length, items.len())),
        None => Err(uneven()),
    }
}

/// Whether a value is text for people, not a number or a list in a table's cell.
pub(super) fn is_text(value: &Value) -> bool {
    value.is_string() && json(value).is_string()
}
