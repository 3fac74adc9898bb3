//! Data files → rows with line numbers. Knows file formats; what the columns mean is decided elsewhere.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Place, Result};

/// One row of a data file, as it stands there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The line in the file, from 1, where the row begins.
    pub line: usize,
    /// The row's columns.
    pub fields: Map<String, Value>,
}

/// A reader of one file format.
type Reader = fn(&mut dyn BufRead) -> Result<Vec<Record>>;

/// File formats by extension.
const FORMATS: [(&str, Reader); 6] = [
    ("jsonl", read_json_lines),
    ("ndjson", read_json_lines),
    ("json", read_json_lines),
    ("csv", |input| read_table(input, b',')),
    ("tsv", |input| read_table(input, b'\t')),
    ("txt", read_text),
];

/// The columns of a table that hold text; all others hold JSON.
const TEXT_COLUMNS: [&str; 5] = ["text", "text_pair", "prompt", "completion", "label"];

/// All rows of a data file.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io), [`Format`](crate::ErrorKind::Format) with file and line, [`Unsupported`](crate::ErrorKind::Unsupported) for an
/// unknown extension, [`Invalid`](crate::ErrorKind::Invalid) if there is no row.
pub(super) fn read(path: &Path) -> Result<Vec<Record>> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    let Some((_, reader)) = FORMATS.iter().find(|(known, _)| *known == extension) else {
        let known = FORMATS.map(|(known, _)| known).join(", ");
        return Err(Error::unsupported(format!("the extension {extension:?}"), format!("data files are {known}")).in_file(path));
    };
    let mut input = BufReader::new(File::open(path).in_file(path)?);
    let records = skip_byte_order_mark(&mut input).and_then(|()| reader(&mut input)).in_file(path)?;
    if records.is_empty() {
        return Err(Error::invalid("no rows in this data file").in_file(path));
    }
    Ok(records)
}

fn skip_byte_order_mark(input: &mut BufReader<File>) -> Result<()> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if input.fill_buf()?.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(())
}

fn read_json_lines(input: &mut dyn BufRead) -> Result<Vec<Record>> {
    let mut records = vec![];
    for (line, text) in (1..).zip(input.lines()) {
        let text = text.at(Place::Line(line))?;
        if !text.trim().is_empty() {
            let fields = serde_json::from_str(&text).map_err(|error| bad_object(&text, &error).at(Place::Line(line)))?;
            records.push(Record { line, fields });
        }
    }
    Ok(records)
}

fn bad_object(text: &str, error: &serde_json::Error) -> Error {
    let error = Error::format("a JSON object", error.to_string().replace(" at line 1 column ", " at column "));
    if text.trim_start().starts_with('[') { error.with_hint("the file must have one JSON object a line, not one array") } else { error }
}

fn read_table(input: &mut dyn BufRead, separator: u8) -> Result<Vec<Record>> {
    let mut table = csv::ReaderBuilder::new().delimiter(separator).from_reader(input);
    let names: Vec<String> = table.headers().map_err(bad_table)?.iter().map(|name| name.trim().to_owned()).collect();
    let mut records = vec![];
    for row in table.records() {
        let row = row.map_err(bad_table)?;
        let line = row.position().and_then(|position| usize::try_from(position.line()).ok()).unwrap_or_default();
        let fields = names.iter().zip(&row).filter(|(name, cell)| !cell.is_empty() || TEXT_COLUMNS.contains(&name.as_str()));
        let fields = fields.map(|(name, cell)| Ok((name.clone(), cell_value(name, cell).at(Place::Line(line))?)));
        records.push(Record { line, fields: fields.collect::<Result<_>>()? });
    }
    Ok(records)
}

fn cell_value(column: &str, cell: &str) -> Result<Value> {
    match column {
        // Numbers are class numbers only if the whole column has them; that is found out later.
        _ if TEXT_COLUMNS.contains(&column) => Ok(Value::String(cell.to_owned())),
        _ => serde_json::from_str(cell).map_err(|error| Error::format("JSON", format!("column {column}: {error}"))),
    }
}

fn bad_table(error: csv::Error) -> Error {
    let line = error.position().and_then(|position| usize::try_from(position.line()).ok());
    let error = match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Error::mismatch("columns", expected_len, len),
        csv::ErrorKind::Utf8 { err, .. } => Error::format("UTF-8 text", err),
        kind => Error::format("a table", format!("{kind:?}")),
    };
    match line {
        Some(line) => error.at(Place::Line(line)),
        None => error,
    }
}

/// Plain text: documents are separated by blank lines.
fn read_text(input: &mut dyn BufRead) -> Result<Vec<Record>> {
    let mut documents: Vec<(usize, Vec<String>)> = vec![];
    let mut is_between = true;
    for (line, text) in (1..).zip(input.lines()) {
        let text = text.at(Place::Line(line))?;
        if text.trim().is_empty() {
            is_between = true;
        } else if let Some((_, lines)) = documents.last_mut().filter(|_| !is_between) {
            lines.push(text);
        } else {
            documents.push((line, vec![text]));
            is_between = false;
        }
    }
    let record =
        |(line, lines): (usize, Vec<String>)| Record { line, fields: [("text".to_owned(), lines.join("\n").into())].into_iter().collect() };
    Ok(documents.into_iter().map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(name: &str, content: &[u8]) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        let records = read(&path).map_err(|error| {
            let text = error.to_string().replace(&format!("{}/", folder.path().display()), "");
            Error::invalid(text)
        })?;
        let rows = records.into_iter().map(|record| format!("{} {}", record.line, Value::Object(record.fields)));
        Ok(rows.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn rows_and_their_lines_are_read() -> Result<()> {
        struct Case(&'static str, &'static str, &'static str);
        for Case(name, content, expected) in [
            Case("a.jsonl", "{\"text\":\"x\"}\n\n{\"label\":1}\n", "1 {\"text\":\"x\"}\n3 {\"label\":1}"),
            Case("a.JSONL", "\u{feff}{\"text\":\"x\"}\r\n", "1 {\"text\":\"x\"}"),
            Case(
                "a.csv",
                "text,label\n\"one\ntwo\",3\nthree,\n",
                "2 {\"text\":\"one\\ntwo\",\"label\":\"3\"}\n4 {\"text\":\"three\",\"label\":\"\"}",
            ),
            Case("a.csv", "input_ids,labels\n\"[1, 2]\",\n", "2 {\"input_ids\":[1,2]}"),
            Case("a.tsv", "prompt\tcompletion\nWhy, then?\tSo.\n", "2 {\"prompt\":\"Why, then?\",\"completion\":\"So.\"}"),
            Case("a.txt", "\none\ntwo\n \n\nthree\n", "2 {\"text\":\"one\\ntwo\"}\n6 {\"text\":\"three\"}"),
        ] {
            assert_eq!(read_from(name, content.as_bytes())?, expected, "{content}");
        }
        Ok(())
    }

    #[test]
    fn bad_files_are_named_with_the_line() {
        struct Case(&'static str, &'static [u8], &'static str);
        for Case(name, content, expected) in [
            Case("a.jsonl", b"", "a.jsonl: no rows in this data file"),
            Case("a.jsonl", b"\n\n", "a.jsonl: no rows in this data file"),
            Case("a.csv", b"text,label\n", "a.csv: no rows in this data file"),
            Case("a.jsonl", b"{\"a\":1}\n{\"a\":}\n", "a.jsonl: line 2: not a JSON object: expected value at column 6"),
            Case("a.json", b"[{\"a\":1}]", "a.json: line 1: not a JSON object: invalid type: sequence, expected a map at column 0"),
            Case("a.jsonl", b"{\"a\":1}\n\xff\n", "a.jsonl: line 2: stream did not contain valid UTF-8"),
            Case("a.csv", b"text,label\nx\n", "a.csv: line 2: columns: expected 2, found 1"),
            Case("a.csv", b"input_ids\n1 2\n", "a.csv: line 2: not JSON: column input_ids: trailing characters at line 1 column 3"),
            Case(
                "a.parquet",
                b"PAR1",
                "a.parquet: the extension \"parquet\" is not supported: data files are jsonl, ndjson, json, csv, tsv, txt",
            ),
        ] {
            assert_eq!(read_from(name, content).unwrap_err().to_string(), expected);
        }
    }
}
