//! The settings of an `adapter_config.json`. Each one that is read is ticked off; the others are unknown ones.

use std::cell::RefCell;
use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::Selection;
use crate::error::{Error, Result};

/// The settings of a file, to be read.
pub struct Fields<'j> {
    json: &'j Map<String, Value>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'j> Fields<'j> {
    /// Starts with nothing read.
    #[must_use]
    pub fn new(json: &'j Map<String, Value>) -> Self {
        Self { json, read: RefCell::default() }
    }

    /// A setting, if it is there and not null.
    #[must_use]
    pub fn value(&self, field: &'static str) -> Option<&'j Value> {
        self.read.borrow_mut().insert(field);
        self.json.get(field).filter(|value| !value.is_null())
    }

    /// A switch.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn flag(&self, field: &'static str, default: Flag) -> Result<bool> {
        self.read_as(field, "true or false", Value::as_bool).map(|value| value.unwrap_or(default == Flag::On))
    }

    /// A text.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn text(&self, field: &'static str) -> Result<Option<&'j str>> {
        self.read_as(field, "a text", Value::as_str)
    }

    /// A number.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn number(&self, field: &'static str, default: f64) -> Result<f64> {
        self.read_as(field, "a number", Value::as_f64).map(|value| value.unwrap_or(default))
    }

    /// An integer.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn integer(&self, field: &'static str, default: i64) -> Result<i64> {
        self.read_as(field, "an integer", Value::as_i64).map(|value| value.unwrap_or(default))
    }

    /// A length or a count.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn size(&self, field: &'static str) -> Result<Option<usize>> {
        self.read_as(field, "a whole number from 0", size)
    }

    /// A list of texts, or one text; without repetitions, which PEFT writes.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn names(&self, field: &'static str) -> Result<Vec<String>> {
        let names = self.read_as(field, "a list of names", |value| match value {
            Value::String(name) => Some(vec![name.clone()]),
            _ => texts(value),
        })?;
        let mut distinct: Vec<String> = Vec::new();
        for name in names.unwrap_or_default() {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        Ok(distinct)
    }

    /// A list of sizes, or one size.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn sizes(&self, field: &'static str) -> Result<Vec<usize>> {
        let sizes =
            self.read_as(field, "a list of whole numbers from 0", |value| size(value).map(|one| vec![one]).or_else(|| sizes(value)))?;
        Ok(sizes.unwrap_or_default())
    }

    /// A list of names, or a regular expression.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn selection(&self, field: &'static str) -> Result<Option<Selection>> {
        self.read_as(field, "a list of names or a regular expression", |value| match value {
            Value::String(regex) => Some(Selection::Regex(regex.clone())),
            // A set has no order in PEFT: sorted, the same adapter gives the same bytes here.
            _ => texts(value).map(|mut names| {
                names.sort_unstable();
                names.dedup();
                Selection::Names(names)
            }),
        })
    }

    /// Values by name, in the order of the file, in which patterns are tried.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn by_name<T>(&self, field: &'static str, expected: &'static str, read: fn(&Value) -> Option<T>) -> Result<IndexMap<String, T>> {
        let values = self.read_as(field, expected, |value| {
            value.as_object()?.iter().map(|(name, value)| Some((name.clone(), read(value)?))).collect::<Option<IndexMap<_, _>>>()
        })?;
        Ok(values.unwrap_or_default())
    }

    /// One of some texts, each standing for a value.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn one_of<T: Copy>(&self, field: &'static str, values: &[(&str, T)], default: T) -> Result<T> {
        let Some(text) = self.text(field)? else { return Ok(default) };
        let known = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        known.ok_or_else(|| {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            Error::mismatch(field, names.join(" or "), format!("{text:?}"))
        })
    }

    /// Marks settings that say nothing about the computation.
    pub fn inert(&self, fields: &[&'static str]) {
        self.read.borrow_mut().extend(fields);
    }

    /// Refuses settings that change the computation in a way that is not known here.
    ///
    /// # Errors
    /// One that says something.
    pub fn refuse(&self, fields: &[(&'static str, &'static str)]) -> Result<()> {
        for &(field, why) in fields {
            if let Some(value) = self.value(field).filter(|value| !says_nothing(value)) {
                return Err(Error::unsupported(format!("{field} = {}", brief(value)), why));
            }
        }
        Ok(())
    }

    /// The settings that nobody has read and that say something.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let unread = self.json.iter().filter(|(field, value)| !read.contains(field.as_str()) && !says_nothing(value));
        unread.map(|(field, value)| format!("{field} = {}", brief(value))).collect()
    }

    fn read_as<T>(&self, field: &'static str, expected: &str, read: impl Fn(&'j Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Error::mismatch(field, expected, brief(value)))
    }
}

/// A switch's position if the file does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// On.
    On,
    /// Off.
    Off,
}

/// Whether a value is how a setting that is not used looks.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A value as a length.
#[must_use]
pub fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| size.try_into().ok())
}

/// A value as lengths.
#[must_use]
pub fn sizes(value: &Value) -> Option<Vec<usize>> {
    value.as_array()?.iter().map(size).collect()
}

/// A value as texts.
#[must_use]
pub fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The beginning of a value, for messages.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
