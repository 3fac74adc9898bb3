//! Labels that are names: which class each is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Reading;
use super::record::Record;
use crate::adapter::config::Task;
use crate::error::{Error, Place, Result};

/// What becomes of class names that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherNames {
    /// They take the next numbers, in alphabetical order: in data that is learnt from.
    Numbered,
    /// They are an error: in data that is measured. Where no name is known, the file must have one for each class, so that their order is certain.
    Refused,
}

const HINT: &str =
    "classes have the names that the model's config.json or the bundle's first training gave them; a label may also be a class's number";

/// The names of the classes in the order of their numbers, if any label of a file is a name.
///
/// # Errors
/// Names that no class can have, with their line.
pub(super) fn names(records: &[Record], reading: &Reading<'_>) -> Result<Option<Vec<String>>> {
    if !matches!(reading.task, Task::SeqCls | Task::ImageCls) {
        return Ok(None);
    }
    let known = reading.class_names;
    let labels = || records.iter().filter_map(|record| Some((record.line, record.fields.get("label")?)));
    let found: BTreeSet<&str> = labels().filter_map(|(_, label)| label.as_str()).collect();
    // A table has no numbers, only text that looks like them.
    let is_number = |name: &&str| name.trim().parse::<i32>().is_ok() && !known.iter().any(|known| known == name);
    if found.iter().all(is_number) {
        return Ok(None);
    }
    if let Some((line, number)) = labels().find(|(_, label)| !matches!(label, Value::String(_))) {
        return Err(Error::mismatch("label", "a name, as in other rows", number).at(Place::Line(line)));
    }
    let others: Vec<&str> = found.iter().copied().filter(|name| !known.iter().any(|known| known == name)).collect();
    let numbered = match reading.other_names {
        OtherNames::Numbered => &others[..],
        OtherNames::Refused if known.is_empty() => complete(&others, reading.limits.classes)?,
        OtherNames::Refused => &[],
    };
    let all = || known.iter().cloned().chain(numbered.iter().map(ToString::to_string));
    match reading.limits.classes {
        Some(classes) if classes < known.len() + numbered.len() => {
            let (first, names) = (others.first().copied().unwrap_or_default(), all().collect::<Vec<_>>().join(", "));
            if known.is_empty() {
                return Err(Error::mismatch("label names", format!("at most {classes}, the model's classes"), names));
            }
            let line = labels().find(|(_, label)| label.as_str() == Some(first)).map_or(1, |(line, _)| line);
            Err(unknown(first, known.iter().map(String::as_str)).at(Place::Line(line)))
        }
        _ => Ok(Some(all().collect())),
    }
}

/// The names of a file in alphabetical order, of which there must be one for each class.
fn complete<'a>(names: &'a [&'a str], classes: Option<usize>) -> Result<&'a [&'a str]> {
    match classes {
        Some(classes) if classes > names.len() => {
            let error = Error::mismatch("label names", format!("{classes}, one for each class"), names.join(", "));
            Err(error.with_hint(
                "which class each name is, neither the model nor this file tells: put config.json with id2label beside the model, or write a class's number",
            ))
        }
        _ => Ok(names),
    }
}

/// A name that no class has.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known = known.collect::<Vec<_>>().join(", ");
    Error::mismatch("label", format!("one of {known}"), name).with_hint(HINT)
}
