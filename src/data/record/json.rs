//! JSON: an object a line, objects that go over several lines, or a list of objects.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Map, Value};

use super::{Record, Visit};
use crate::data::role_names::ROLES;
use crate::error::{Context, Error, Place, Result};
use crate::files::json::{Names, TWICE};

/// What the only object of a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Only {
    /// A row: each line of JSON Lines is one.
    IsRow,
    /// A row, or an object with the rows in it.
    MayHoldRows,
}

/// Shows the rows of a JSON file, however it is laid out.
pub(super) fn each(text: &str, only: Only, visit: Visit<'_>) -> Result<()> {
    match text.trim_start().chars().next() {
        Some('[') => {
            let mut start = text.len() - text.trim_start().len();
            // Several lists, one behind another.
            while text[start..].starts_with('[') {
                let end = list(text, start, visit)?;
                start = end + text[end..].len() - text[end..].trim_start().len();
            }
            if start == text.len() {
                return Ok(());
            }
            let error = Error::format("a list of JSON objects", "something stands behind its end");
            Err(error
                .at(Place::Line(Lines::of(text).line(start)))
                .with_hint("a file is one list of objects, lists one behind another, or an object a line"))
        }
        _ => objects(text, only, visit),
    }
}

/// Objects one after another, each in a line of its own or over several; a line may end as on any system.
fn objects(text: &str, kind: Only, visit: Visit<'_>) -> Result<()> {
    let mut lines = Lines::of(text);
    // The only object of a file may have the rows in it.
    let (mut only, mut several, mut at) = (None, false, 0);
    while at < text.len() {
        let length = text[at..].find(['\n', '\r']).map_or(text.len() - at, |end| end + 1);
        let row = &text[at..at + length];
        if row.trim().is_empty() {
            at += length;
            continue;
        }
        let line = lines.line(at);
        is_row(row).at(Place::Line(line))?;
        let (fields, length) = match serde_json::from_str(row) {
            Ok(Names(fields)) => (fields, length),
            Err(error) => match spread(&text[at..]) {
                Ok(object) => object,
                // What is wrong with a whole object says more than that it does not end in its first line.
                Err(Some(inside)) if inside.is_data() => {
                    return Err(bad_object(&text[at..], &inside).at(Place::Line(line + inside.line().saturating_sub(1))));
                }
                Err(_) => return Err(bad_object(row, &error).at(Place::Line(line))),
            },
        };
        at += length;
        let record = Record { line, fields };
        if !several && only.is_none() {
            only = Some(record);
            continue;
        }
        several = true;
        only.take().map_or(Ok(()), &mut *visit)?;
        visit(record)?;
    }
    match only {
        None => Ok(()),
        Some(Record { line, fields }) => match rows_in(text, &fields).filter(|_| kind == Only::MayHoldRows) {
            Some(start) => list(text, start, visit).map(|_| ()),
            None => visit(Record { line, fields }),
        },
    }
}

/// Rows of fewer bytes are not counted.
const LARGE: usize = 1 << 23;
/// The most values of a row; each takes many times the memory of its text.
const MOST_VALUES: usize = 4_000_000;

/// Refuses a row of more values than anybody has for one example, before memory is asked for all of them.
fn is_row(text: &str) -> Result<()> {
    if text.len() < LARGE {
        return Ok(());
    }
    let values = text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if values <= MOST_VALUES {
        return Ok(());
    }
    let error = Error::mismatch("values in this row", format!("{MOST_VALUES} at most"), values);
    Err(error.with_hint("a row is one example: write long texts as several rows, or as a text, which `max_length` cuts"))
}

/// The text of the object that begins here.
fn object(text: &str) -> &str {
    let mut stream = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match stream.next() {
        Some(Ok(_)) => &text[..stream.byte_offset()],
        _ => text,
    }
}

/// An object that begins here and goes over lines, and its length in bytes; or what is wrong with it.
fn spread(text: &str) -> Result<(Map<String, Value>, usize), Option<serde_json::Error>> {
    let start = text.len() - text.trim_start().len();
    is_row(object(&text[start..])).map_err(|_| None)?;
    let mut stream = Deserializer::from_str(&text[start..]).into_iter();
    let Names(fields) = stream.next().ok_or(None)??;
    Ok((fields, start + stream.byte_offset()))
}

/// Whether an object with this name is a row itself, whatever lists are in it: it is the name of a role. What is read beside a chat may be a list of rows.
fn is_of_a_row(name: &str) -> bool {
    ROLES.contains(&name) && name != "documents"
}

/// Where the rows begin in a file that is one object with one list of objects in it, such as `{"version": .., "data": [..]}`; a row, and a list of
/// messages under whatever name, are not taken apart.
fn rows_in(text: &str, fields: &Map<String, Value>) -> Option<usize> {
    if fields.keys().any(|name| is_of_a_row(name)) {
        return None;
    }
    let is_message = |item: &Value| item.get("role").or_else(|| item.get("from")).is_some_and(Value::is_string);
    let is_rows = |items: &Vec<Value>| !items.is_empty() && items.iter().all(Value::is_object) && !items.iter().all(is_message);
    let mut lists = fields.iter().filter(|(_, value)| value.as_array().is_some_and(is_rows));
    let (name, _) = lists.next().filter(|_| lists.next().is_none())?;
    let value = value_of(text, name)?;
    Some(value + text[value..].find('[')?)
}

/// The byte behind the colon of a name in the object that a text is; names in its values do not count.
fn value_of(text: &str, name: &str) -> Option<usize> {
    let mut at = text.find('{')? + 1;
    loop {
        let mut key = Deserializer::from_str(&text[at..]).into_iter::<String>();
        let found = key.next()?.ok()?;
        at += key.byte_offset();
        at += text[at..].find(':')? + 1;
        if found == name {
            return Some(at);
        }
        let mut value = Deserializer::from_str(&text[at..]).into_iter::<IgnoredAny>();
        value.next()?.ok()?;
        at += value.byte_offset();
        at += text[at..].find(',')? + 1;
    }
}

/// A list of objects that begins at a byte of the text; gives the byte behind its end.
fn list(text: &str, start: usize, visit: Visit<'_>) -> Result<usize> {
    let (mut is_empty, mut at, mut lines) = (true, start + 1, Lines::of(text));
    let skip = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let bad = |line: usize, why: &str| Error::format("a list of JSON objects", why).at(Place::Line(line));
    loop {
        at = skip(at);
        match text[at..].chars().next() {
            None => return Err(bad(lines.line(at), "the file ends within it")),
            Some(']') if is_empty => return Ok(at + 1),
            Some(']') => return Err(bad(lines.line(at), "there is a comma behind the last object")),
            Some(_) => {}
        }
        if text.len() >= LARGE {
            is_row(object(&text[at..])).at(Place::Line(lines.line(at)))?;
        }
        let mut stream = Deserializer::from_str(&text[at..]).into_iter();
        let fields = match stream.next() {
            Some(Ok(Names(fields))) => fields,
            Some(Err(error)) => {
                let line = lines.line(at) + error.line().saturating_sub(1);
                return Err(bad_object(&text[at..], &error).at(Place::Line(line)));
            }
            None => return Err(bad(lines.line(at), "the file ends within it")),
        };
        visit(Record { line: lines.line(at), fields })?;
        is_empty = false;
        at = skip(at + stream.byte_offset());
        match text[at..].chars().next() {
            Some(',') => at += 1,
            Some(']') => return Ok(at + 1),
            _ => return Err(bad(lines.line(at), "a comma or ] was expected")),
        }
    }
}

/// Lines of a text, counted on the way through it.
struct Lines<'a> {
    text: &'a str,
    end: char,
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, end: if text.contains('\n') { '\n' } else { '\r' }, at: 0, line: 1 }
    }

    /// The line of a byte, from 1, which is not before the one that was asked for last.
    fn line(&mut self, at: usize) -> usize {
        self.line += self.text[self.at..at].matches(self.end).count();
        self.at = at;
        self.line
    }
}

fn bad_object(text: &str, error: &serde_json::Error) -> Error {
    let (why, is_data) = (error.to_string(), error.is_data());
    let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
    let text = text.trim_start();
    let error = Error::format("a JSON object", format!("{why} at column {}", error.column()));
    if ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
        return error.with_hint("NaN and Infinity are no JSON: write null where there is no value");
    }
    error.with_hint(match text.chars().next() {
        Some('{') if is_data => TWICE,
        Some('[') => "each line must be an object, as {\"text\": ...}; or the whole file one list of objects",
        Some('{') => "quotation marks are double and names stand in them; no comma stands behind the last value",
        _ => "a row is an object, as {\"text\": ...}, one a line; is this file JSON?",
    })
}
