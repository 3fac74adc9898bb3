//! Tables: a line of names, then a line a row, with commas, tabs, semicolons or bars between.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;

use super::{Record, Visit};
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

/// How a table is written.
pub(super) struct Dialect {
    separator: u8,
    quotes: Quotes,
    /// Where it begins, in bytes, and how many lines stand before it.
    start: usize,
    lines_before: usize,
}

impl Dialect {
    /// Comma separated values, whatever separates them.
    ///
    /// # Errors
    /// Quotation marks that enclose no cell, with the line.
    pub(super) fn of_csv(text: &str) -> Result<Self> {
        // What Excel writes to tell itself the separator.
        if let Some((told, rest)) = text.split_once(['\n', '\r']).filter(|(line, _)| line.trim_end().len() == 5)
            && let Some(separator) = told.trim_end().strip_prefix("sep=").and_then(|told| told.chars().next())
        {
            return Self::new(text, separator, Quotes::Enclose, text.len() - rest.len());
        }
        Self::new(text, separator(text).unwrap_or(','), Quotes::Enclose, 0)
    }

    /// Tab separated values; a file without tabs in its first line may be separated otherwise.
    ///
    /// # Errors
    /// As [`of_csv`](Self::of_csv).
    pub(super) fn of_tsv(text: &str) -> Result<Self> {
        let has_tab = text.lines().next().is_some_and(|line| line.contains('\t'));
        match separator(text).filter(|_| !has_tab) {
            Some(separator) => Self::new(text, separator, Quotes::Enclose, 0),
            None => Self::new(text, '\t', Quotes::AreText, 0),
        }
    }

    fn new(text: &str, separator: char, quotes: Quotes, start: usize) -> Result<Self> {
        let form = Self { separator: u8::try_from(separator).unwrap_or(b','), quotes, start, lines_before: usize::from(start > 0) };
        if separator != ',' {
            tracing::info!("cells are separated by {separator:?}");
        }
        match quotes {
            Quotes::Enclose => check_quotes(&unix(&text[start..]), form.separator)?,
            Quotes::AreText => form.tell_of_quotes(text)?,
        }
        Ok(form)
    }

    /// Shows the rows of a table.
    ///
    /// # Errors
    /// Rows of another number of cells, with the line.
    pub(super) fn each(&self, text: &str, visit: Visit<'_>) -> Result<()> {
        let text = &*unix(&text[self.start..]);
        let mut table = csv::ReaderBuilder::new()
            .delimiter(self.separator)
            .quoting(self.quotes == Quotes::Enclose)
            .flexible(false)
            .from_reader(text.as_bytes());
        let names = names(table.headers().map_err(|error| bad(error, text, self.lines_before))?)?;
        let (mut line, mut counted) = (self.lines_before + 1, 0);
        for row in table.records() {
            let row = row.map_err(|error| bad(error, text, self.lines_before))?;
            let at = row.position().map_or(counted, |position| start(position, text));
            line += lines(&text[counted..at]);
            counted = at;
            let fields = names.iter().zip(&row).map(|(name, cell)| (name.clone(), Value::String(cell.to_owned()))).collect();
            visit(Record { line, fields })?;
        }
        Ok(())
    }

    /// Says so where every mark seems to enclose a cell.
    fn tell_of_quotes(&self, text: &str) -> Result<()> {
        let is_enclosed = |value: &Value| value.as_str().is_some_and(|cell| cell.len() > 1 && cell.starts_with('"') && cell.ends_with('"'));
        let mut count = 0_usize;
        self.each(text, &mut |record| {
            count += usize::from(record.fields.values().any(is_enclosed));
            Ok(())
        })?;
        if count > 0 {
            tracing::warn!(
                "{count} rows have cells between quotation marks, which are read as text in a .tsv file; name the file .csv if they enclose cells"
            );
        }
        Ok(())
    }
}

/// Text whose lines end with `\n`: without any, they end as on old Macs, which the csv crate does not count.
fn unix(text: &str) -> Cow<'_, str> {
    if !text.contains('\n') && text.contains('\r') { text.replace('\r', "\n").into() } else { text.into() }
}

/// The separator that makes most columns of the first line, outside of quotation marks.
fn separator(text: &str) -> Option<char> {
    let header = text.split(['\n', '\r']).find(|line| !line.trim().is_empty())?;
    let count = |separator: char| header.split('"').step_by(2).map(|part| part.matches(separator).count()).sum::<usize>();
    let most = SEPARATORS.into_iter().rev().max_by_key(|separator| count(*separator))?;
    (count(most) > 0).then_some(most)
}

/// The names of the columns; one without a name is called by its place.
fn names(header: &csv::StringRecord) -> Result<Vec<String>> {
    let (mut names, mut seen): (Vec<String>, HashSet<String>) = Default::default();
    for (at, name) in (1..).zip(header) {
        let name = if name.trim().is_empty() { format!("(column {at})") } else { name.trim().to_owned() };
        if !seen.insert(name.clone()) {
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
