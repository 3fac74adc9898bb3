//! Tables: a line of names, then a line a row, with commas, tabs, semicolons or bars between.

use serde_json::Value;

use super::Record;
use crate::error::{Error, Place, Result};

/// What may stand between the cells of a `.csv` file, the most usual first.
const SEPARATORS: [char; 4] = [',', ';', '\t', '|'];

/// Whether quotation marks enclose cells or are text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// A cell may stand in them, with line ends and separators inside, and two for one.
    Enclose,
    /// They are text, as tab separated files have it.
    AreText,
}

/// Comma separated values, whatever separates them.
pub(super) fn read_csv(text: &str) -> Result<Vec<Record>> {
    // What Excel writes to tell itself the separator.
    if let Some((told, rest)) = text.split_once(['\n', '\r']).filter(|(line, _)| line.trim_end().len() == 5)
        && let Some(separator) = told.trim_end().strip_prefix("sep=").and_then(|told| told.chars().next())
    {
        return read(rest, separator, Quotes::Enclose, 1);
    }
    read(text, separator(text).unwrap_or(','), Quotes::Enclose, 0)
}

/// Tab separated values; a file without tabs in its first line may be separated otherwise.
pub(super) fn read_tsv(text: &str) -> Result<Vec<Record>> {
    let has_tab = text.lines().next().is_some_and(|line| line.contains('\t'));
    match separator(text).filter(|_| !has_tab) {
        Some(separator) => read(text, separator, Quotes::Enclose, 0),
        None => read(text, '\t', Quotes::AreText, 0),
    }
}

/// The separator that makes most columns of the first line, outside of quotation marks.
fn separator(text: &str) -> Option<char> {
    let header = text.split(['\n', '\r']).find(|line| !line.trim().is_empty())?;
    let count = |separator: char| header.split('"').step_by(2).map(|part| part.matches(separator).count()).sum::<usize>();
    let most = SEPARATORS.into_iter().rev().max_by_key(|separator| count(*separator))?;
    (count(most) > 0).then_some(most)
}

fn read(text: &str, separator: char, quotes: Quotes, lines_before: usize) -> Result<Vec<Record>> {
    // Without any \n, lines end as on old Macs; the csv crate counts only \n.
    let unix = (!text.contains('\n') && text.contains('\r')).then(|| text.replace('\r', "\n"));
    let text = unix.as_deref().unwrap_or(text);
    let separator = u8::try_from(separator).unwrap_or(b',');
    if quotes == Quotes::Enclose {
        check_quotes(text, separator)?;
    }
    if separator != b',' {
        tracing::info!("cells are separated by {:?}", char::from(separator));
    }
    let mut table =
        csv::ReaderBuilder::new().delimiter(separator).quoting(quotes == Quotes::Enclose).flexible(false).from_reader(text.as_bytes());
    let names = names(table.headers().map_err(|error| bad(error, text, lines_before))?)?;
    let mut records = vec![];
    let (mut line, mut counted) = (lines_before + 1, 0);
    for row in table.records() {
        let row = row.map_err(|error| bad(error, text, lines_before))?;
        let at = row.position().map_or(counted, |position| start(position, text));
        line += lines(&text[counted..at]);
        counted = at;
        let fields = names.iter().zip(&row).map(|(name, cell)| (name.clone(), Value::String(cell.to_owned()))).collect();
        records.push(Record { line, fields });
    }
    if quotes == Quotes::AreText {
        tell_of_quotes(&records);
    }
    Ok(records)
}

/// The names of the columns; one without a name is called by its place.
fn names(header: &csv::StringRecord) -> Result<Vec<String>> {
    let mut names: Vec<String> = vec![];
    for (at, name) in (1..).zip(header) {
        let name = if name.trim().is_empty() { format!("(column {at})") } else { name.trim().to_owned() };
        if names.contains(&name) {
            let error = Error::invalid(format!("there are two columns named {name:?}")).at(Place::Line(1));
            return Err(error.with_hint("the first line of a table names its columns, each by a name of its own"));
        }
        names.push(name);
    }
    Ok(names)
}

/// Checks that marks which enclose cells end before a separator: else whole rows disappear in one cell.
fn check_quotes(text: &str, separator: u8) -> Result<()> {
    enum At {
        Start,
        Cell,
        Quoted { since: usize },
        Behind { since: usize },
        Padding { since: usize },
    }
    let (mut at, mut line) = (At::Start, 1);
    let wrong = |line: usize, what: &str| {
        let error = Error::format("a table", format!("a quotation mark {what}")).at(Place::Line(line));
        Err(error.with_hint(
            "a cell that has quotation marks in it stands in quotation marks, with two for each of its own; in a .tsv file marks are text",
        ))
    };
    for byte in text.bytes() {
        at = match (at, byte) {
            (At::Start, b'"') => At::Quoted { since: line },
            (At::Quoted { since }, b'"') => At::Behind { since },
            (At::Quoted { since }, _) | (At::Behind { since }, b'"') => At::Quoted { since },
            (_, b'\n' | b'\r') => At::Start,
            (_, byte) if byte == separator => At::Start,
            (At::Behind { since } | At::Padding { since }, b' ') => At::Padding { since },
            (At::Behind { since } | At::Padding { since }, _) => {
                return wrong(since, "opens a cell, and closes it in the middle of its text");
            }
            (At::Start | At::Cell, _) => At::Cell,
        };
        line += usize::from(byte == b'\n');
    }
    match at {
        At::Quoted { since } => wrong(since, "opens a cell that no other closes"),
        _ => Ok(()),
    }
}

/// Says so where every mark seems to enclose a cell.
fn tell_of_quotes(records: &[Record]) {
    let is_enclosed = |value: &Value| value.as_str().is_some_and(|cell| cell.len() > 1 && cell.starts_with('"') && cell.ends_with('"'));
    let count = records.iter().filter(|record| record.fields.values().any(is_enclosed)).count();
    if count > 0 {
        tracing::warn!(
            "{count} rows have cells between quotation marks, which are read as text in a .tsv file; name the file .csv if they enclose cells"
        );
    }
}

/// Where a row begins: the csv crate takes what ended the row before for its beginning.
fn start(position: &csv::Position, text: &str) -> usize {
    let at = usize::try_from(position.byte()).unwrap_or_default().min(text.len());
    at + text.as_bytes()[at..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count()
}

fn lines(text: &str) -> usize {
    text.matches('\n').count()
}

fn bad(error: csv::Error, text: &str, lines_before: usize) -> Error {
    let line = error.position().map(|position| 1 + lines(&text[..start(position, text)]));
    let error = match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Error::mismatch("columns", expected_len, len)
            .with_hint("a text with a separator or a line end in it stands in quotation marks; the first line names the columns"),
        kind => Error::format("a table", format!("{kind:?}")),
    };
    match line {
        Some(line) => error.at(Place::Line(lines_before + line)),
        None => error,
    }
}
