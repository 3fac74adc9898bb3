//! Data files → rows with line numbers. Knows file formats; what the columns mean is decided elsewhere.

mod encoding;
mod json;
mod table;

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// One row of a data file, as it stands there. Cells of tables are text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The line in the file, from 1, where the row begins.
    pub line: usize,
    /// The row's columns.
    pub fields: Map<String, Value>,
}

/// A reader of one file format.
type Reader = fn(&str) -> Result<Vec<Record>>;

/// File formats by extension; each may be packed, as `.jsonl.gz`.
const FORMATS: [(&str, Reader); 6] = [
    ("jsonl", json::read),
    ("ndjson", json::read),
    ("json", json::read),
    ("csv", table::read_csv),
    ("tsv", table::read_tsv),
    ("txt", |text| Ok(read_text(text))),
];

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// All rows of a data file. `-` is standard input, with JSON or a table.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io), [`Format`](crate::ErrorKind::Format) with file and line, [`Unsupported`](crate::ErrorKind::Unsupported) for an
/// unknown extension, [`Invalid`](crate::ErrorKind::Invalid) if there is no row.
pub(super) fn read(path: &Path) -> Result<Vec<Record>> {
    let records = if path == Path::new(STANDARD_INPUT) { read_input(path) } else { read_file(path) }.in_file(path)?;
    if records.is_empty() {
        return Err(Error::invalid("no rows in this data file")
            .in_file(path)
            .with_hint("a row is a line; the first line of a table only names its columns"));
    }
    Ok(records)
}

fn read_file(path: &Path) -> Result<Vec<Record>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let packed = name.strip_suffix(".gz");
    let extension = packed.unwrap_or(&name).rsplit_once('.').map_or("", |(_, extension)| extension);
    let Some((_, reader)) = FORMATS.iter().find(|(known, _)| *known == extension) else {
        let known = FORMATS.map(|(known, _)| known).join(", ");
        let error = Error::unsupported(format!("the extension {extension:?}"), format!("data files are {known}"));
        return Err(error.with_hint("write the rows as jsonl: pandas has df.to_json(\"rows.jsonl\", orient=\"records\", lines=True), datasets has ds.to_json(\"rows.jsonl\")"));
    };
    let bytes = std::fs::read(path)?;
    let bytes = if packed.is_some() { encoding::unpacked(&bytes)? } else { bytes };
    reader(&encoding::text_of(bytes, path)?)
}

fn read_input(path: &Path) -> Result<Vec<Record>> {
    let mut bytes = vec![];
    std::io::stdin().read_to_end(&mut bytes)?;
    let text = encoding::text_of(bytes, path)?;
    if text.trim_start().starts_with(['{', '[']) { json::read(&text) } else { table::read_csv(&text) }
}

/// Plain text: documents are separated by blank lines. A line may end as on any system.
fn read_text(text: &str) -> Vec<Record> {
    let unix = text.contains('\r').then(|| text.replace("\r\n", "\n").replace('\r', "\n"));
    let mut documents: Vec<(usize, Vec<&str>)> = vec![];
    let mut is_between = true;
    for (line, text) in (1..).zip(unix.as_deref().unwrap_or(text).lines()) {
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
        |(line, lines): (usize, Vec<&str>)| Record { line, fields: [("text".to_owned(), lines.join("\n").into())].into_iter().collect() };
    documents.into_iter().map(record).collect()
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
            Case("a.csv", "text,label\r\none,3\r\n", "2 {\"text\":\"one\",\"label\":\"3\"}"),
            Case("a.csv", "text,label\rone,3\rtwo,4\r", "2 {\"text\":\"one\",\"label\":\"3\"}\n3 {\"text\":\"two\",\"label\":\"4\"}"),
            Case("a.csv", "text;label\n\"one; two\";3\n", "2 {\"text\":\"one; two\",\"label\":\"3\"}"),
            Case("a.csv", "text|label\none|3\n", "2 {\"text\":\"one\",\"label\":\"3\"}"),
            Case("a.csv", "sep=;\ntext;label\none;3\n", "3 {\"text\":\"one\",\"label\":\"3\"}"),
            Case("a.csv", ",text\n0,one\n", "2 {\"(column 1)\":\"0\",\"text\":\"one\"}"),
            Case(
                "a.tsv",
                "text\tlabel\n\"one\t1\ntwo\" three\t0\n",
                "2 {\"text\":\"\\\"one\",\"label\":\"1\"}\n3 {\"text\":\"two\\\" three\",\"label\":\"0\"}",
            ),
            Case("a.tsv", "text,label\none,1\n", "2 {\"text\":\"one\",\"label\":\"1\"}"),
            Case("a.jsonl", "{\"text\":\"x\"}\r{\"text\":\"y\"}\r", "1 {\"text\":\"x\"}\n2 {\"text\":\"y\"}"),
            Case("a.json", "[{\"text\":\"x\"},\n {\"text\":\"y\"}]\n", "1 {\"text\":\"x\"}\n2 {\"text\":\"y\"}"),
            Case("a.json", "{\n \"text\": \"x\"\n}\n{\"text\":\"y\"}", "1 {\"text\":\"x\"}\n4 {\"text\":\"y\"}"),
            Case("a.json", "{\"version\": 1,\n\"data\": [\n{\"text\":\"x\"}]}", "3 {\"text\":\"x\"}"),
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
            Case("a.json", b"[{\"a\":1},\n]", "a.json: line 2: not a list of JSON objects: there is a comma behind the last object"),
            Case("a.json", b"[{\"a\":1}\n{\"a\":1}]", "a.json: line 2: not a list of JSON objects: a comma or ] was expected"),
            Case("a.json", b"[{\"a\":1},\n{\"a\":NaN}]", "a.json: line 2: not a JSON object: expected value at column 6"),
            Case("a.json", b"[1]", "a.json: line 1: not a JSON object: invalid type: integer `1`, expected a map at column 1"),
            Case("a.jsonl", b"{\"a\":1,}\n{\"a\":1}\n", "a.jsonl: line 1: not a JSON object: trailing comma at column 8"),
            Case("a.jsonl", b"{\"a\":\"\xc3\xa9\"}\n\xff\n", "a.jsonl: line 2: not UTF-8 text: a character is broken"),
            Case(
                "a.csv",
                b"label,text\n1,\"one\n2,two\n",
                "a.csv: line 2: not a table: a quotation mark opens a cell that no other closes",
            ),
            Case(
                "a.csv",
                b"text,label\none,1\n\"two,1\nthree\" four,0\n",
                "a.csv: line 3: not a table: a quotation mark opens a cell, and closes it in the middle of its text",
            ),
            Case("a.csv", b"text,text\none,1\n", "a.csv: line 1: there are two columns named \"text\""),
            Case("a.csv", b"text,label\nx\n", "a.csv: line 2: columns: expected 2, found 1"),
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
