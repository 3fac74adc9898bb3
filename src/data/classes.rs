//! Labels of classes: whole numbers, or names and which class each is.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::fields::json;
use super::reading::{OtherNames, Reading};
use super::record::Record;
use crate::adapter::config::Task;
use crate::error::{Context, Error, Place, Result};

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

/// The labels of a file's rows as they are looked through: each a whole number or a name, in the column `label` or in lists.
pub(super) struct Labels<'a> {
    reading: &'a Reading<'a>,
    /// The names of a verbalizer.
    shown: Option<Vec<String>>,
    first: Option<Label>,
    /// The first label of another kind than the first one, with its line.
    other: Option<(usize, Label)>,
    /// Every name, with its first line.
    names: BTreeMap<String, usize>,
    /// Whether one of them is no truth value.
    has_names: bool,
}

/// What the labels of a file are.
pub(super) struct Settled<'a> {
    labels: Labels<'a>,
    /// The names of the classes in the order of their numbers, if labels are names.
    pub names: Option<Vec<String>>,
}

impl<'a> Labels<'a> {
    /// None yet.
    pub(super) fn new(reading: &'a Reading<'a>) -> Self {
        let shown = reading.hard_prompt.map(|prompt| prompt.labels.iter().map(|label| label.name.clone()).collect());
        Self { reading, shown, first: None, other: None, names: BTreeMap::new(), has_names: false }
    }

    /// Looks at a row's labels.
    ///
    /// # Errors
    /// With the line: labels that are missing or no whole numbers.
    pub(super) fn add(&mut self, record: &Record) -> Result<()> {
        if self.are_lists() {
            self.add_list(record);
            return Ok(());
        }
        let Some(label) = self.of_row(&record.fields).at(Place::Line(record.line))? else { return Ok(()) };
        self.has_names |= matches!(label, Label::Name(_));
        if let Some(name) = label.name() {
            self.names.entry(name.to_owned()).or_insert(record.line);
        }
        self.note_kind(record.line, label);
        Ok(())
    }

    /// Notes whether a label is a number or a name, as the first one was.
    fn note_kind(&mut self, line: usize, label: Label) {
        let first = self.first.get_or_insert_with(|| label.clone());
        if self.other.is_none() && first.name().is_none() != label.name().is_none() {
            self.other = Some((line, label));
        }
    }

    /// What the labels are, of all rows.
    ///
    /// # Errors
    /// With the line: numbers among names, names that no class can have.
    pub(super) fn settle(self) -> Result<Settled<'a>> {
        let names = match (self.are_lists(), self.has_names) {
            (true, true) => {
                self.check_kinds()?;
                Some(self.in_order()?)
            }
            (true, false) => (!self.reading.class_names.is_empty()).then(|| self.reading.class_names.to_vec()),
            (false, true) => {
                self.check_kinds()?;
                if self.shown.is_some() { None } else { Some(self.in_order()?) }
            }
            (false, false) => None,
        };
        Ok(Settled { labels: self, names })
    }

    /// Whether a row has a list of labels: labels of a text, tags of words, labels of entities.
    fn are_lists(&self) -> bool {
        matches!(self.reading.task, Task::MultiLabel | Task::TokenCls) && self.shown.is_none()
    }

    /// The label of a row; none for rows that have none, or have those of their tokens.
    fn of_row(&self, fields: &Map<String, Value>) -> Result<Option<Label>> {
        if !self.reading.task.is_one_class() && self.shown.is_none() {
            return Ok(None);
        }
        // Rows of tokens have their own labels under a hard prompt; a row without any is an error of its form.
        let is_tokens = self.shown.is_some() && fields.contains_key("input_ids");
        let value = fields.get(column(fields)).filter(|_| !is_tokens);
        let known = self.shown.as_deref().unwrap_or(self.reading.class_names);
        value.map(|value| label_of(value, known)).transpose()
    }

    fn add_list(&mut self, record: &Record) {
        let Record { line, fields } = record;
        let list = |name: &str| match fields.get(name).map(json) {
            Some(value) => value.as_array().cloned().unwrap_or_default(),
            None => vec![],
        };
        let own = if self.reading.task == Task::MultiLabel { column(fields) } else { "labels" };
        let known = self.reading.class_names;
        let is_name = |name: &&str| !known.is_empty() || placeholder(name).is_none();
        let own = list(own);
        if known.is_empty() {
            own.iter().filter_map(kind_in_list).for_each(|label| self.note_kind(*line, label));
        }
        let mut found: Vec<String> = own.iter().filter_map(Value::as_str).filter(is_name).map(ToOwned::to_owned).collect();
        let is_known = |name: &str| known.iter().any(|known| known == name);
        for entity in list("entities").iter().filter_map(|entity| entity["label"].as_str()) {
            if is_known(entity) {
                found.push(entity.to_owned());
            } else if let Some(kind) = tag_of(entity).filter(|_| known.is_empty()) {
                found.extend(["O".to_owned(), entity.to_owned(), format!("I-{kind}")]);
            } else {
                let tags = ["O".to_owned(), format!("B-{entity}"), format!("I-{entity}")];
                found.extend(tags.into_iter().filter(|name| known.is_empty() || is_known(name)));
            }
        }
        self.has_names |= !found.is_empty();
        for name in found {
            self.names.entry(name).or_insert(*line);
        }
    }

    /// Checks that no number is among names.
    fn check_kinds(&self) -> Result<()> {
        let Some((line, label)) = &self.other else { return Ok(()) };
        let of_numbers = self.first.as_ref().is_some_and(|first| first.name().is_none());
        let expected = if of_numbers { "a whole number, as in other rows" } else { "a name, as in other rows" };
        let found = label.name().map_or_else(|| label.value(true).to_string(), ToOwned::to_owned);
        let error = Error::mismatch("label", expected, found).at(Place::Line(*line));
        Err(error.with_hint("labels of one file are all names of classes, or all their numbers"))
    }

    /// The names of the classes in the order of their numbers.
    fn in_order(&self) -> Result<Vec<String>> {
        let Reading { class_names: known, limits, other_names, .. } = self.reading;
        let others: Vec<&str> = self.names.keys().map(String::as_str).filter(|name| !known.iter().any(|known| known == name)).collect();
        let numbered = match other_names {
            OtherNames::Numbered => &others[..],
            OtherNames::Refused if known.is_empty() => complete(&others, limits.classes)?,
            OtherNames::Refused => &[],
        };
        let all = || known.iter().cloned().chain(numbered.iter().map(ToString::to_string));
        match limits.classes {
            Some(classes) if classes < known.len() + numbered.len() => {
                let first = others.first().copied().unwrap_or_default();
                if known.is_empty() {
                    let names = all().take(24).collect::<Vec<_>>().join(", ");
                    return Err(Error::mismatch("label names", format!("at most {classes}, the model's classes"), names)
                        .with_hint("is the column label the one with the classes? `map COLUMN=label` names another"));
                }
                let line = self.names.get(first).copied().unwrap_or(1);
                Err(unknown(first, known.iter().map(String::as_str)).at(Place::Line(line)))
            }
            _ => Ok(all().collect()),
        }
    }
}

impl Settled<'_> {
    /// Writes a row's label as what it is into the column `label`.
    ///
    /// # Errors
    /// As [`Labels::add`].
    pub(super) fn write(&self, fields: &mut Map<String, Value>) -> Result<()> {
        if self.labels.are_lists() {
            return Ok(());
        }
        if let Some(label) = self.labels.of_row(fields)? {
            fields.shift_remove(column(fields));
            fields.insert("label".to_owned(), label.value(self.labels.has_names));
        }
        Ok(())
    }
}

/// The kind of entity of a label that is a tag of a word itself, as taggers write them: `LOC` of `B-LOC`.
pub(super) fn tag_of(label: &str) -> Option<&str> {
    /// What stands before kinds in the schemes of taggers (IOB, BIOES, BILOU).
    const SCHEMES: [&str; 6] = ["B", "I", "E", "S", "L", "U"];
    label.split_once('-').filter(|(scheme, kind)| SCHEMES.contains(scheme) && !kind.is_empty()).map(|(_, kind)| kind)
}

/// The column with a row's label.
fn column(fields: &Map<String, Value>) -> &'static str {
    if fields.contains_key("label") { "label" } else { "labels" }
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
                None if known.is_empty() && placeholder(trimmed).is_some() => {
                    Ok(placeholder(trimmed).map_or_else(|| Label::Name(trimmed.to_owned()), |class| Label::Number(class.into())))
                }
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

/// Whether a label of a list is a number or a name; none for what is no label, as the tokens that have none.
fn kind_in_list(value: &Value) -> Option<Label> {
    match value {
        Value::Number(number) => number.as_i64().filter(|number| *number >= 0).map(Label::Number),
        Value::String(name) => Some(placeholder(name).map_or_else(|| Label::Name(name.clone()), |class| Label::Number(class.into()))),
        _ => None,
    }
}

/// The number of a class that nobody named, by what Hugging Face's programs call it: `LABEL_1`.
pub(super) fn placeholder(name: &str) -> Option<i32> {
    name.trim().strip_prefix("LABEL_").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// The number that a label is, if it is no name.
pub(super) fn number(value: &Value) -> Option<u64> {
    label_of(value, &[]).ok().filter(|label| !matches!(label, Label::Name(_)))?.value(false).as_u64()
}

/// `1.0` is 1, as programs write that know numbers with fractions only.
fn integral(number: f64) -> Option<i64> {
    (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok()).flatten()
}

fn missing(text: &str) -> Error {
    let found = if text.is_empty() { "an empty one".to_owned() } else { text.to_owned() };
    Error::mismatch("label", "a class", found).with_hint("this row has no label: leave the row out, or write its class")
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
