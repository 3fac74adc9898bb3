//! The values of a row's columns.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::example::Numbers;
use crate::error::{Error, Result};
use crate::files::json::Told;

pub(super) use crate::files::json::describe;

/// The columns of a row.
pub type Fields = Map<String, Value>;

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
