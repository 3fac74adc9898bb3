//! JSON: an object a line, objects that go over several lines, or a list of objects.

use serde_json::{Deserializer, Map, Value};

use super::Record;
use crate::error::{Context, Error, Place, Result};

/// The rows of a JSON file, however it is laid out.
pub(super) fn read(text: &str) -> Result<Vec<Record>> {
    match text.trim_start().chars().next() {
        Some('[') => list(text, text.len() - text.trim_start().len()),
        _ => lines(text).or_else(|error| match values(text) {
            Some(rows) => rows,
            None => Err(error),
        }),
    }
}

/// An object a line; a line may end as on any system.
fn lines(text: &str) -> Result<Vec<Record>> {
    let mut records = vec![];
    let rows = text.split_inclusive(['\n', '\r']);
    let mut line = 1;
    for (row, next) in rows.clone().zip(rows.skip(1).chain([""])) {
        if !row.trim().is_empty() {
            let fields = serde_json::from_str(row).map_err(|error| bad_object(row, &error)).at(Place::Line(line))?;
            records.push(Record { line, fields });
        }
        line += usize::from(!(row.ends_with('\r') && next == "\n"));
    }
    match &records[..] {
        [Record { fields, .. }] => nested(text, fields).unwrap_or(Ok(records)),
        _ => Ok(records),
    }
}

/// Objects one after another that go over lines; none if the text is something else.
fn values(text: &str) -> Option<Result<Vec<Record>>> {
    let (mut records, mut at, mut lines) = (vec![], 0, Lines::of(text));
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if at == text.len() {
            break;
        }
        let mut stream = Deserializer::from_str(&text[at..]).into_iter::<Map<String, Value>>();
        let fields = stream.next()?.ok()?;
        records.push(Record { line: lines.line(at), fields });
        at += stream.byte_offset();
    }
    match &records[..] {
        [Record { fields, .. }] => nested(text, fields).or(Some(Ok(records))),
        _ => Some(Ok(records)),
    }
}

/// The rows in a file that is one object with one list of objects in it, such as `{"version": .., "data": [..]}`; a conversation is a row itself.
fn nested(text: &str, fields: &Map<String, Value>) -> Option<Result<Vec<Record>>> {
    let is_rows = |value: &Value| value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object));
    let mut lists =
        fields.iter().filter(|(name, value)| !["messages", "conversations", "tools"].contains(&name.as_str()) && is_rows(value));
    let (name, _) = lists.next().filter(|_| lists.next().is_none() && !fields.contains_key("messages"))?;
    let key = text.find(&format!("\"{name}\""))?;
    let at = key + text[key..].find('[')?;
    Some(list(text, at))
}

/// A list of objects that begins at a byte of the text.
fn list(text: &str, start: usize) -> Result<Vec<Record>> {
    let (mut records, mut at, mut lines) = (vec![], start + 1, Lines::of(text));
    let skip = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let bad = |line: usize, why: &str| Error::format("a list of JSON objects", why).at(Place::Line(line));
    loop {
        at = skip(at);
        match text[at..].chars().next() {
            None => return Err(bad(lines.line(at), "the file ends within it")),
            Some(']') if records.is_empty() => return Ok(records),
            Some(']') => return Err(bad(lines.line(at), "there is a comma behind the last object")),
            Some(_) => {}
        }
        let mut stream = Deserializer::from_str(&text[at..]).into_iter::<Map<String, Value>>();
        let fields = match stream.next() {
            Some(Ok(fields)) => fields,
            Some(Err(error)) => {
                let line = lines.line(at) + error.line().saturating_sub(1);
                return Err(bad_object(&text[at..], &error).at(Place::Line(line)));
            }
            None => return Err(bad(lines.line(at), "the file ends within it")),
        };
        records.push(Record { line: lines.line(at), fields });
        at = skip(at + stream.byte_offset());
        match text[at..].chars().next() {
            Some(',') => at += 1,
            Some(']') => return Ok(records),
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
    let why = error.to_string();
    let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
    let text = text.trim_start();
    let error = Error::format("a JSON object", format!("{why} at column {}", error.column()));
    if ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
        return error.with_hint("NaN and Infinity are no JSON: write null where there is no value");
    }
    error.with_hint(match text.chars().next() {
        Some('[') => "each line must be an object, as {\"text\": ...}; or the whole file one list of objects",
        Some('{') => "quotation marks are double and names stand in them; no comma stands behind the last value",
        _ => "a row is an object, as {\"text\": ...}, one a line; is this file JSON?",
    })
}
