//! Data files → rows with line numbers, one at a time, as often as they are asked for. Knows file formats; what the columns mean is decided elsewhere.
//!
//! A file's bytes stay where they are: it is mapped, and a row is taken apart only while somebody looks at it. What is packed, or comes from standard
//! input, is unpacked first: into memory if it is small, else into a temporary file.

mod columnar;
mod encoding;
mod json;
mod table;
mod text;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::splits::{Classes, ENDINGS};
use crate::error::{Context, Error, Result};
use crate::files;
use text::Text;

/// One row of a data file, as it stands there. Cells of tables are text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The line in the file, from 1, where the row begins.
    pub line: usize,
    /// The row's columns.
    pub fields: Map<String, Value>,
}

/// What looks at rows.
type Visit<'v> = &'v mut dyn FnMut(Record) -> Result<()>;

/// File formats by extension; each may be packed, as `.jsonl.gz`.
const FORMATS: [(&str, Format); ENDINGS.len()] = [
    (ENDINGS[0], Format::JsonLines),
    (ENDINGS[1], Format::JsonLines),
    (ENDINGS[2], Format::Json),
    (ENDINGS[3], Format::Csv),
    (ENDINGS[4], Format::Tsv),
    (ENDINGS[5], Format::Parquet),
    (ENDINGS[6], Format::Text),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    JsonLines,
    Csv,
    Tsv,
    Parquet,
    Text,
}

/// The path that stands for standard input.
pub(super) const STANDARD_INPUT: &str = "-";

/// A data file, open. `-` is standard input, with JSON, a table or a Parquet file.
pub(super) struct RowFile {
    path: PathBuf,
    content: Content,
}

enum Content {
    Json(Text, json::Only),
    Table(Text, table::Dialect),
    Documents(Text),
    /// Rows that nobody wrote into a file.
    Rows(Vec<Record>),
    Parquet(Bytes),
    /// Files in folders named after their classes.
    Classes(Classes),
}

/// What columns the rows of a file have.
pub(super) struct Survey {
    /// The columns in the order in which they come up, and whether the first value of each is a list.
    pub columns: IndexMap<String, bool>,
    /// How many rows there are.
    pub rows: usize,
}

impl RowFile {
    /// Opens a data file.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), [`Format`](crate::ErrorKind::Format) with file and line, [`Unsupported`](crate::ErrorKind::Unsupported) for an
    /// unknown extension.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let content = if path == Path::new(STANDARD_INPUT) { from_input(path) } else { from_file(path) }.in_file(path)?;
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// Rows that are in memory, and what stands for their file.
    pub(super) fn of_rows(path: &Path, rows: Vec<Record>) -> Self {
        Self { path: path.to_path_buf(), content: Content::Rows(rows) }
    }

    /// Shows every row.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) with file and line, or what `visit` returns, in this file.
    pub(super) fn each(&self, visit: Visit<'_>) -> Result<()> {
        self.show(visit).in_file(&self.path)
    }

    /// Shows every row; what is wrong is told without the file's name.
    ///
    /// # Errors
    /// As [`each`](Self::each).
    pub(super) fn show(&self, visit: Visit<'_>) -> Result<()> {
        match &self.content {
            Content::Json(text, only) => text.read().and_then(|text| json::each(text, *only, visit)),
            Content::Table(text, form) => text.read().and_then(|text| form.each(text, visit)),
            Content::Documents(text) => text.read().and_then(|text| documents(text, visit)),
            Content::Rows(rows) => rows.iter().cloned().try_for_each(visit),
            Content::Parquet(bytes) => columnar::each(bytes, visit),
            Content::Classes(classes) => classes.files.iter().zip(1..).try_for_each(|((file, class), line)| {
                let fields = [(classes.column.to_owned(), file.clone().into()), ("label".to_owned(), class.clone().into())];
                visit(Record { line, fields: fields.into_iter().collect() })
            }),
        }
    }

    /// Looks for columns.
    ///
    /// # Errors
    /// As [`each`](Self::each); [`Invalid`](crate::ErrorKind::Invalid) if there is no row.
    pub(super) fn survey(&self) -> Result<Survey> {
        let mut survey = Survey { columns: IndexMap::new(), rows: 0 };
        self.each(&mut |record| {
            survey.rows += 1;
            for (name, value) in record.fields {
                if !survey.columns.contains_key(&name) {
                    let is_list = value.is_array() || value.as_str().is_some_and(|cell| cell.trim_start().starts_with('['));
                    survey.columns.insert(name, is_list);
                }
            }
            Ok(())
        })?;
        if survey.rows > 0 {
            return Ok(survey);
        }
        let error = Error::invalid("no rows in this data file").in_file(&self.path);
        Err(error.with_hint("a row is a line; the first line of a table only names its columns"))
    }
}

fn from_file(path: &Path) -> Result<Content> {
    if path.is_dir() {
        return Classes::of(path).map(Content::Classes);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let packed = name.strip_suffix(".gz");
    let extension = packed.unwrap_or(&name).rsplit_once('.').map_or("", |(_, extension)| extension);
    let Some((_, format)) = FORMATS.iter().find(|(known, _)| *known == extension) else {
        let known = FORMATS.map(|(known, _)| known).join(", ");
        let error = Error::unsupported(format!("the extension {extension:?}"), format!("data files are {known}"));
        return Err(error.with_hint("write the rows as jsonl or parquet: pandas has df.to_json(\"rows.jsonl\", orient=\"records\", lines=True), datasets has ds.to_json(\"rows.jsonl\")"));
    };
    let bytes = files::map(path)?;
    let bytes = if packed.is_some() { encoding::unpacked(&bytes)? } else { bytes };
    if *format == Format::Parquet {
        return Ok(Content::Parquet(bytes));
    }
    let text = encoding::text_of(&bytes, path)?;
    Ok(match format {
        Format::Json => Content::Json(text, json::Only::MayHoldRows),
        Format::JsonLines => Content::Json(text, json::Only::IsRow),
        Format::Csv => table::Dialect::of_csv(text.read()?).map(|form| Content::Table(text, form))?,
        Format::Tsv => table::Dialect::of_tsv(text.read()?).map(|form| Content::Table(text, form))?,
        Format::Text | Format::Parquet => Content::Documents(text),
    })
}

fn from_input(path: &Path) -> Result<Content> {
    // It can be read once, and is looked through as often as a file.
    static READ: OnceLock<Bytes> = OnceLock::new();
    let bytes = if let Some(bytes) = READ.get() {
        bytes.clone()
    } else {
        let read = encoding::spooled(&mut std::io::stdin().lock().take(u64::MAX))?;
        let read = if encoding::is_packed(&read) { encoding::unpacked(&read)? } else { read };
        READ.get_or_init(|| read).clone()
    };
    if columnar::is_one(&bytes) {
        return Ok(Content::Parquet(bytes));
    }
    let text = encoding::text_of(&bytes, path)?;
    if text.read()?.trim_start().starts_with(['{', '[']) {
        return Ok(Content::Json(text, json::Only::MayHoldRows));
    }
    table::Dialect::of_csv(text.read()?).map(|form| Content::Table(text, form))
}

/// Plain text: documents are separated by blank lines. A line may end as on any system.
fn documents(text: &str, visit: Visit<'_>) -> Result<()> {
    let unix = text.contains('\r').then(|| text.replace("\r\n", "\n").replace('\r', "\n"));
    let mut give = |(line, lines): (usize, Vec<&str>)| {
        let fields = [("text".to_owned(), lines.join("\n").into())].into_iter().collect();
        visit(Record { line, fields })
    };
    let mut document: Option<(usize, Vec<&str>)> = None;
    for (line, text) in (1..).zip(unix.as_deref().unwrap_or(text).lines()) {
        if text.trim().is_empty() {
            document.take().map_or(Ok(()), &mut give)?;
        } else {
            document.get_or_insert_with(|| (line, vec![])).1.push(text);
        }
    }
    document.map_or(Ok(()), give)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(name: &str, content: &[u8]) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        let mut rows = vec![];
        let read = RowFile::open(&path).and_then(|file| {
            file.survey()?;
            file.each(&mut |record| {
                rows.push(format!("{} {}", record.line, Value::Object(record.fields)));
                Ok(())
            })
        });
        read.map_err(|error| Error::invalid(error.to_string().replace(&format!("{}/", folder.path().display()), "")))?;
        Ok(rows.join("\n"))
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
            Case("a.jsonl", "[{\"a\":1}]\n[{\"a\":2},{\"a\":3}]\n", "1 {\"a\":1}\n2 {\"a\":2}\n2 {\"a\":3}"),
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
            Case("a.json", "{\"info\": {\"data\": [{}]}, \"data\" : [\n{\"text\":\"x\"}]}", "2 {\"text\":\"x\"}"),
            // The only row of a file, with a list of objects in it.
            Case("a.jsonl", "{\"text\":\"x\",\"spans\":[{\"at\":1}]}\n", "1 {\"text\":\"x\",\"spans\":[{\"at\":1}]}"),
            Case("a.jsonl", "{\"title\":\"x\",\"parts\":[{\"at\":1}]}\n", "1 {\"title\":\"x\",\"parts\":[{\"at\":1}]}"),
            Case("a.jsonl", "{\"chat\":[{\"role\":\"user\"}]}\n", "1 {\"chat\":[{\"role\":\"user\"}]}"),
            Case("a.json", "\u{feff}[\r\n{\"text\":\"x\"},\r\n{\"text\":\"y\"}\r\n]", "2 {\"text\":\"x\"}\n3 {\"text\":\"y\"}"),
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
            Case("a.json", b"[{\"a\":1}]\n{\"a\":2}\n", "a.json: line 2: not a list of JSON objects: something stands behind its end"),
            Case("a.json", b"[1]", "a.json: line 1: not a JSON object: invalid type: integer `1`, expected an object at column 1"),
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
                "a.xlsx",
                b"PK",
                "a.xlsx: the extension \"xlsx\" is not supported: data files are jsonl, ndjson, json, csv, tsv, parquet, txt",
            ),
        ] {
            assert_eq!(read_from(name, content).unwrap_err().to_string(), expected);
        }
    }
}
