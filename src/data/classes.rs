//! Labels of classes: whole numbers, or names and which class each is.

use std::collections::BTreeSet;

use serde_json::{Number, Value};

use super::fields::json;
use super::reading::{OtherNames, Reading};
use super::record::Record;
use crate::adapter::config::Task;
use crate::error::{Error, Place, Result};

const HINT: &str =
    "classes have the names that the model's config.json or the bundle's first training gave them; a label may also be a class's number";

/// What programs write where a table has no value (those that pandas reads so).
const MISSING: [&str; 14] = ["", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA"];

/// A label as it stands in a row.
#[derive(Clone, Debug, PartialEq)]
enum Label {
    Number(i64),
    /// `true`, which is 1, or `false`, as text: a name, where other rows have names.
    Flag(String),
    Name(String),
}

/// Settles what the labels of rows are, each a whole number or a name in the column `label`, and gives the names of the classes in the order of
/// their numbers, if labels are names.
///
/// # Errors
/// With the line: labels that are missing or no whole numbers, numbers among names, names that no class can have.
pub(super) fn settle(records: &mut [Record], reading: &Reading<'_>) -> Result<Option<Vec<String>>> {
    if matches!(reading.task, Task::MultiLabel | Task::TokenCls) && reading.hard_prompt.is_none() {
        return of_lists(records, reading);
    }
    if !reading.task.is_one_class() && reading.hard_prompt.is_none() {
        return Ok(None);
    }
    let shown = reading.hard_prompt.map(|prompt| prompt.labels.iter().map(|label| label.name.clone()).collect::<Vec<_>>());
    let known = shown.as_deref().unwrap_or(reading.class_names);
    let mut labels = vec![];
    for (row, record) in records.iter_mut().enumerate() {
        let name = if record.fields.contains_key("label") { "label" } else { "labels" };
        // Rows of tokens have their own labels under a hard prompt; a row without any is an error of its form.
        let is_tokens = shown.is_some() && record.fields.contains_key("input_ids");
        let Some(value) = record.fields.get(name).filter(|_| !is_tokens) else { continue };
        let label = label_of(value, known).map_err(|error| error.at(Place::Line(record.line)))?;
        record.fields.shift_remove(name);
        labels.push(Labelled { row, line: record.line, label });
    }
    let has_names = labels.iter().any(|labelled| matches!(labelled.label, Label::Name(_)));
    if has_names {
        one_kind(&labels)?;
    }
    for Labelled { row, label, .. } in &labels {
        records[*row].fields.insert("label".to_owned(), label.value(has_names));
    }
    if !has_names || shown.is_some() {
        return Ok(None);
    }
    names(&labels, reading).map(Some)
}

/// The label of a row.
struct Labelled {
    row: usize,
    line: usize,
    label: Label,
}

impl Label {
    /// A name; none for a number.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Number(_) => None,
            Self::Flag(name) | Self::Name(name) => Some(name),
        }
    }

    fn value(&self, among_names: bool) -> Value {
        match self {
            Self::Number(number) => Value::Number(Number::from(*number)),
            Self::Name(name) => Value::String(name.clone()),
            Self::Flag(flag) if among_names => Value::String(flag.clone()),
            Self::Flag(flag) => Value::Number(Number::from(i64::from(flag.eq_ignore_ascii_case("true")))),
        }
    }
}

/// What a value says; names that are known come before everything else.
fn label_of(value: &Value, known: &[String]) -> Result<Label> {
    let whole = || {
        Error::mismatch("label", "a whole number, the class's, or its name", value)
            .with_hint("a number with a fraction is no class: classes are 0, 1, 2, ...")
    };
    match value {
        Value::Null => Err(missing("null")),
        Value::Bool(flag) => Ok(Label::Number(i64::from(*flag))),
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(integral)).map(Label::Number).ok_or_else(whole),
        Value::String(text) => {
            let trimmed = text.trim();
            match [text.as_str(), trimmed].into_iter().find(|name| known.iter().any(|known| known == name)) {
                Some(name) => Ok(Label::Name(name.to_owned())),
                None if MISSING.contains(&trimmed) => Err(missing(trimmed)),
                None if ["true", "false"].contains(&trimmed.to_ascii_lowercase().as_str()) => Ok(Label::Flag(trimmed.to_owned())),
                None => match (trimmed.parse::<i64>(), trimmed.parse::<f64>()) {
                    (Ok(number), _) => Ok(Label::Number(number)),
                    (_, Ok(number)) if number.is_finite() => integral(number).map(Label::Number).ok_or_else(whole),
                    _ => Ok(Label::Name(trimmed.to_owned())),
                },
            }
        }
        Value::Array(_) => Err(Error::unsupported("a list as the label of a row", "a row has one class")
            .with_hint("a label for each token goes with `peft-onnx inject --task token-cls`")),
        Value::Object(_) => Err(whole()),
    }
}

/// `1.0` is 1, as programs write that know numbers with fractions only.
fn integral(number: f64) -> Option<i64> {
    (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok()).flatten()
}

fn missing(text: &str) -> Error {
    let found = if text.is_empty() { "an empty one".to_owned() } else { text.to_owned() };
    Error::mismatch("label", "a class", found).with_hint("this row has no label: leave the row out, or write its class")
}

/// Checks that no number is among names.
fn one_kind(labels: &[Labelled]) -> Result<()> {
    let first = labels.first().is_some_and(|labelled| labelled.label.name().is_none());
    match labels.iter().find(|labelled| labelled.label.name().is_none() != first) {
        None => Ok(()),
        Some(Labelled { line, label, .. }) => {
            let expected = if first { "a whole number, as in other rows" } else { "a name, as in other rows" };
            let found = label.name().map_or_else(|| label.value(true).to_string(), ToOwned::to_owned);
            let error = Error::mismatch("label", expected, found).at(Place::Line(*line));
            Err(error.with_hint("labels of one file are all names of classes, or all their numbers"))
        }
    }
}

/// The names of classes of which a row has a list: labels of a text, tags of words, labels of entities; none if they are numbers.
fn of_lists(records: &[Record], reading: &Reading<'_>) -> Result<Option<Vec<String>>> {
    let mut labels = vec![];
    for (row, Record { line, fields }) in records.iter().enumerate() {
        let mut add = |name: String| labels.push(Labelled { row, line: *line, label: Label::Name(name) });
        let list = |name: &str| match fields.get(name).map(json) {
            Some(value) => value.as_array().cloned().unwrap_or_default(),
            None => vec![],
        };
        let own = if reading.task == Task::MultiLabel && fields.contains_key("label") { "label" } else { "labels" };
        list(own).iter().filter_map(Value::as_str).for_each(|name| add(name.to_owned()));
        let is_known = |name: &str| reading.class_names.iter().any(|known| known == name);
        for entity in list("entities").iter().filter_map(|entity| entity["label"].as_str()) {
            if is_known(entity) {
                add(entity.to_owned());
            } else {
                ["O".to_owned(), format!("B-{entity}"), format!("I-{entity}")]
                    .into_iter()
                    .filter(|name| reading.class_names.is_empty() || is_known(name))
                    .for_each(&mut add);
            }
        }
    }
    if !labels.is_empty() {
        return names(&labels, reading).map(Some);
    }
    Ok((!reading.class_names.is_empty()).then(|| reading.class_names.to_vec()))
}

/// The names of the classes in the order of their numbers.
fn names(labels: &[Labelled], reading: &Reading<'_>) -> Result<Vec<String>> {
    let known = reading.class_names;
    let found: BTreeSet<&str> = labels.iter().filter_map(|labelled| labelled.label.name()).collect();
    let others: Vec<&str> = found.iter().copied().filter(|name| !known.iter().any(|known| known == name)).collect();
    let numbered = match reading.other_names {
        OtherNames::Numbered => &others[..],
        OtherNames::Refused if known.is_empty() => complete(&others, reading.limits.classes)?,
        OtherNames::Refused => &[],
    };
    let all = || known.iter().cloned().chain(numbered.iter().map(ToString::to_string));
    match reading.limits.classes {
        Some(classes) if classes < known.len() + numbered.len() => {
            let first = others.first().copied().unwrap_or_default();
            if known.is_empty() {
                let names = all().take(24).collect::<Vec<_>>().join(", ");
                return Err(Error::mismatch("label names", format!("at most {classes}, the model's classes"), names)
                    .with_hint("is the column label the one with the classes? --map COLUMN=label names another"));
            }
            let line = labels.iter().find(|labelled| labelled.label.name() == Some(first)).map_or(1, |labelled| labelled.line);
            Err(unknown(first, known.iter().map(String::as_str)).at(Place::Line(line)))
        }
        _ => Ok(all().collect()),
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
