//! Parquet: rows one after another, a group of rows in memory at a time.

mod limits;
mod thrift;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{Record, Visit};
use crate::data::fields::raw_bytes;
use crate::error::{Error, Place, Result};
use crate::files::wall::{PARQUET, behind_wall};

/// Whether bytes begin as a Parquet file does, and as no text of rows does.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(limits::MAGIC)
}

/// Shows the rows of a Parquet file. A row's line is its number.
pub(super) fn each(bytes: &Bytes, visit: Visit<'_>) -> Result<()> {
    limits::check_footer(bytes)?;
    let reader = behind_wall(PARQUET, || SerializedFileReader::new(bytes.clone()))?.map_err(|error| bad(&error))?;
    behind_wall(PARQUET, || limits::check_pages(bytes, &reader))??;
    let mut rows = behind_wall(PARQUET, || reader.get_row_iter(None))?.map_err(|error| bad(&error))?;
    for line in 1.. {
        let row = behind_wall(PARQUET, || rows.next()).map_err(|error| error.at(Place::Line(line)))?;
        let Some(row) = row else { break };
        let row = row.map_err(|error| bad(&error).at(Place::Line(line)))?;
        visit(Record { line, fields: fields(&row) })?;
    }
    Ok(())
}

fn fields(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// What a field holds. Bytes that are text are one, whether or not the file says so (Spark, Impala, Hive and pandas write text without the mark).
fn value(field: &Field) -> Value {
    match field {
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) if !text.contains('\0') => text.into(),
            _ => raw_bytes(bytes.data()),
        },
        Field::Group(row) => Value::Object(fields(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let name = |key: &Field| if let Value::String(name) = value(key) { name } else { key.to_string() };
            Value::Object(map.entries().iter().map(|(key, field)| (name(key), value(field))).collect())
        }
        other => other.to_json_value(),
    }
}

fn bad(error: &ParquetError) -> Error {
    Error::format("a Parquet file", error).with_hint("is the file complete?")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = "message rows {
        REQUIRED BYTE_ARRAY text (UTF8);
        OPTIONAL INT64 label;
        OPTIONAL GROUP tags (LIST) { REPEATED GROUP list { OPTIONAL INT32 element; } }
    }";

    pub(super) fn written(compression: Compression) -> Result<Vec<u8>, ParquetError> {
        written_with(WriterProperties::builder().set_compression(compression).build())
    }

    pub(super) fn written_with(properties: WriterProperties) -> Result<Vec<u8>, ParquetError> {
        let mut bytes = vec![];
        let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(SCHEMA)?), Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        while let Some(mut column) = group.next_column()? {
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    column.write_batch(&[ByteArray::from("one"), ByteArray::from("two")], None, None)?;
                }
                ColumnWriter::Int64ColumnWriter(column) => {
                    column.write_batch(&[7], Some(&[1, 0]), None)?;
                }
                ColumnWriter::Int32ColumnWriter(column) => {
                    column.write_batch(&[1, 2], Some(&[3, 3, 0]), Some(&[0, 1, 0]))?;
                }
                _ => {}
            }
            column.close()?;
        }
        group.close()?;
        writer.close()?;
        Ok(bytes)
    }

    #[test]
    fn rows_are_read_whatever_they_are_packed_with() -> Result<()> {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
            Compression::LZ4_RAW,
        ] {
            let bytes = written(compression).map_err(|error| bad(&error))?;
            let mut rows = vec![];
            each(&bytes.into(), &mut |record| {
                rows.push((record.line, Value::Object(record.fields)));
                Ok(())
            })?;
            let expected =
                vec![(1, json!({"text": "one", "label": 7, "tags": [1, 2]})), (2, json!({"text": "two", "label": null, "tags": null}))];
            assert_eq!(rows, expected, "{compression:?}");
        }
        Ok(())
    }

    #[test]
    fn bytes_that_are_text_are_read_as_text_and_others_as_bytes() {
        let bytes = |bytes: &[u8]| Field::Bytes(ByteArray::from(bytes.to_vec()));
        assert_eq!(value(&bytes("thé cat".as_bytes())), json!("thé cat"));
        let row = Field::Group(Row::new(vec![("bytes".to_owned(), bytes(b"\xff\xd8picture")), ("path".to_owned(), Field::Null)]));
        assert_eq!(value(&row), json!({"bytes": raw_bytes(b"\xff\xd8picture"), "path": null}));
        assert_eq!(value(&bytes(b"RIFF\0\0")), raw_bytes(b"RIFF\0\0"), "zeros are no text");
    }

    #[test]
    fn rows_are_read_as_other_programs_keep_them() -> Result<()> {
        let bytes = Bytes::from_static(include_bytes!("../../../tests/fixtures/rows.parquet"));
        let mut rows = vec![];
        each(&bytes, &mut |record| {
            rows.push(Value::Object(record.fields));
            Ok(())
        })?;
        assert_eq!(rows.len(), 5);
        let third = json!({"text": "row 2: na na ", "label": null, "weight": 0.25, "tokens": null, "source": {"name": "a", "page": 2}, "kept": true, "lengths": "002"});
        assert_eq!((&rows[2], &rows[4]["tokens"], &rows[4]["lengths"]), (&third, &json!([5, 6]), &json!("004")));
        Ok(())
    }

    #[test]
    fn damaged_files_are_errors() -> Result<()> {
        let whole = written(Compression::SNAPPY).map_err(|error| bad(&error))?;
        for length in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
            let error = each(&Bytes::from(whole[..length].to_vec()), &mut |_| Ok(())).expect_err("a part of a file");
            assert!(error.to_string().contains("not a Parquet file") && error.hint().is_some(), "{error}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            // Whatever comes of it: no panic.
            let _ = each(&bytes.into(), &mut |_| Ok(()));
        }
        Ok(())
    }
}
