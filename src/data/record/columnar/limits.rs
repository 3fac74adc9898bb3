//! What a Parquet file says of its sizes, held against what it has: before its own reader asks for that much memory, or goes round that often.

use std::io::{self, Read};

use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::Page;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, RowGroupReader};

use super::bad;
use super::thrift::{self, Fields};
use crate::error::{Error, Result};
use crate::files::wall::PARQUET;

/// A page may become this many times as large, or [`PAGE`] bytes; a column may have this many values a byte, and [`VALUES`] more.
const PACKED: u64 = 200;
const PAGE: u64 = 64 << 20;
const VALUES: u64 = 1 << 20;
/// How many columns and groups of them there may be, and how deep they may stand in each other.
const COLUMNS: usize = 1 << 16;
const DEPTH: usize = 32;
/// What a file begins with, and ends with behind the length of its footer.
pub(super) const MAGIC: &[u8; 4] = b"PAR1";

/// Fields of Parquet's structs (parquet.thrift).
mod field {
    pub(super) const SCHEMA: i64 = 2;
    pub(super) const CHILDREN: i64 = 5;
    pub(super) const UNPACKED: i64 = 2;
    pub(super) const COMPRESSED: i64 = 3;
    pub(super) const DATA: i64 = 5;
    pub(super) const DICTIONARY: i64 = 7;
    pub(super) const DATA_V2: i64 = 8;
    pub(super) const VALUES: i64 = 1;
    pub(super) const ENCODING: i64 = 2;
    pub(super) const ENCODING_V2: i64 = 4;
    /// Of `Encoding`: lengths, then bytes; and prefixes, then both.
    pub(super) const DELTA_LENGTHS: i64 = 6;
    pub(super) const DELTA_BYTES: i64 = 7;
}

/// The number of the last 8 bytes, if a file is long enough for them and they are a Parquet file's.
fn footer(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, end) = bytes.split_last_chunk::<8>()?;
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let start = rest.len().checked_sub(usize::try_from(length).ok()?)?;
    (&end[4..] == MAGIC).then(|| &rest[start..])
}

/// Refuses columns that stand in each other without end: a reader goes down into them.
///
/// # Errors
/// [`Mismatch`](crate::ErrorKind::Mismatch); [`Format`](crate::ErrorKind::Format) for what is no footer.
pub(super) fn check_footer(bytes: &[u8]) -> Result<()> {
    let (fields, _) = thrift::read(footer(bytes).ok_or_else(|| PARQUET.refused("it does not end as one"))?)?;
    let mut open: Vec<i64> = vec![];
    for (at, column) in fields.list(field::SCHEMA).enumerate() {
        if at >= COLUMNS {
            return Err(Error::mismatch("columns", format!("at most {COLUMNS}"), "more"));
        }
        if let Some(children) = column.number(field::CHILDREN).filter(|children| *children > 0) {
            open.push(children);
        } else {
            // A column closes every group of which it is the last.
            while let Some(left) = open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                open.pop();
            }
        }
        if open.len() > DEPTH {
            return Err(Error::mismatch("groups of columns in each other", format!("at most {DEPTH}"), "more"));
        }
    }
    Ok(())
}

/// Refuses rows, pages and dictionaries that are larger than the bytes of the file can be.
///
/// # Errors
/// [`Mismatch`](crate::ErrorKind::Mismatch) with what there is too much of; [`Format`](crate::ErrorKind::Format) for what is no page.
pub(super) fn check_pages(bytes: &[u8], reader: &dyn FileReader) -> Result<()> {
    let mut rows = Budget::of("rows", bytes);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| bad(&error))?;
        rows.spend(group.metadata().num_rows())?;
        for (at, column) in group.metadata().columns().iter().enumerate() {
            check_packing(column.compression())?;
            let mut values = Budget::of("values of a column", bytes);
            let mut has_lengths = false;
            for page in pages(bytes, column) {
                let page = page?;
                values.spend(page.values)?;
                page.check(column)?;
                has_lengths |= page.encoding == Some(field::DELTA_LENGTHS);
            }
            if has_lengths {
                check_lengths(&*group, at)?;
            }
        }
    }
    Ok(())
}

/// Refuses what is not unpacked within a size that is known beforehand.
fn check_packing(packing: Compression) -> Result<()> {
    let name = match packing {
        Compression::BROTLI(_) => "brotli",
        Compression::LZ4 => "the old form of lz4",
        Compression::LZO => "lzo",
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) | Compression::LZ4_RAW => {
            return Ok(());
        }
    };
    let error = Error::unsupported(format!("a Parquet file packed with {name}"), "zstd, snappy, gzip and lz4 are read");
    Err(error.with_hint("write it again: pandas has df.to_parquet(\"rows.parquet\", compression=\"zstd\")"))
}

/// How many there may be of something, for so many bytes.
struct Budget {
    what: &'static str,
    most: u64,
    left: u64,
}

impl Budget {
    fn of(what: &'static str, bytes: &[u8]) -> Self {
        let most = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_mul(PACKED).saturating_add(VALUES);
        Self { what, most, left: most }
    }

    fn spend(&mut self, count: i64) -> Result<()> {
        let left = u64::try_from(count).ok().and_then(|count| self.left.checked_sub(count));
        let error = || Error::mismatch(self.what, format!("0 to {}, for a file of this size", self.most), count);
        self.left = left.ok_or_else(|| error().with_hint("is the file complete?"))?;
        Ok(())
    }
}

/// What a page's header says.
struct PageHeader<'a> {
    /// The bytes behind the header.
    body: &'a [u8],
    unpacked: u64,
    /// Values of a page of data; 0 for others.
    values: i64,
    /// Values of a dictionary.
    dictionary: Option<i64>,
    encoding: Option<i64>,
    /// Whether the levels of a page stand before what is packed.
    is_v2: bool,
}

/// The pages of a column, as its reader goes through them.
fn pages<'a>(bytes: &'a [u8], column: &ColumnChunkMetaData) -> impl Iterator<Item = Result<PageHeader<'a>>> {
    let range = || {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(column.compressed_size()).ok()?);
        bytes.get(start..start.checked_add(length)?)
    };
    let mut left = Some(range().ok_or_else(|| PARQUET.refused("a column lies outside of the file")));
    std::iter::from_fn(move || match left.take()? {
        Ok([]) => None,
        Ok(chunk) => Some(PageHeader::read(chunk).map(|(page, rest)| {
            left = Some(Ok(rest));
            page
        })),
        Err(error) => Some(Err(error)),
    })
}

impl<'a> PageHeader<'a> {
    /// Reads the header of the first page of some bytes; gives it, and what lies behind the page.
    fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let (header, length) = thrift::read(bytes)?;
        let size = |number: i64| header.number(number).and_then(|size| usize::try_from(size).ok());
        let (unpacked, packed) = size(field::UNPACKED).zip(size(field::COMPRESSED)).ok_or_else(|| PARQUET.refused("a page has no size"))?;
        let (body, rest) = bytes[length..].split_at_checked(packed).ok_or_else(|| PARQUET.refused("a page ends behind its column"))?;
        let v2 = header.fields(field::DATA_V2);
        let number = |fields: Option<&Fields>, number| fields.and_then(|fields| fields.number(number));
        let data = v2.or(header.fields(field::DATA));
        let encoding = number(v2, field::ENCODING_V2).or_else(|| number(header.fields(field::DATA), field::ENCODING));
        let dictionary = number(header.fields(field::DICTIONARY), field::VALUES);
        let unpacked = u64::try_from(unpacked).unwrap_or(u64::MAX);
        Ok((Self { body, unpacked, values: number(data, field::VALUES).unwrap_or(0), dictionary, encoding, is_v2: v2.is_some() }, rest))
    }

    fn check(&self, column: &ColumnChunkMetaData) -> Result<()> {
        let packed = u64::try_from(self.body.len()).unwrap_or(u64::MAX);
        let most = packed.saturating_mul(PACKED).max(PAGE);
        let too_large =
            |found: u64| Err(Error::mismatch("bytes of a page", format!("at most {most}"), found).with_hint("is the file complete?"));
        if self.unpacked > most {
            return too_large(self.unpacked);
        }
        // gzip is unpacked to its end, whatever the header says.
        if matches!(column.compression(), Compression::GZIP(_)) && !self.is_v2 {
            let mut counted = flate2::read::MultiGzDecoder::new(self.body).take(self.unpacked + 1);
            let count = io::copy(&mut counted, &mut io::sink()).map_err(|error| PARQUET.refused(error))?;
            if count > self.unpacked {
                return Err(Error::mismatch("bytes of a page", self.unpacked, "more").with_hint("is the file complete?"));
            }
        }
        // Values of a dictionary stand one after another: four bytes each, or as many as the type says.
        let bytes = if column.column_type() == Type::FIXED_LEN_BYTE_ARRAY { column.column_descr().type_length().max(1) } else { 4 };
        let most = self.unpacked / u64::try_from(bytes).unwrap_or(4);
        if let Some(count) = self.dictionary
            && u64::try_from(count).map_or(true, |count| count > most)
        {
            return Err(Error::mismatch("values of a dictionary", format!("at most {most}"), count).with_hint("is the file complete?"));
        }
        if self.encoding == Some(field::DELTA_BYTES) {
            let error = Error::unsupported("text kept as differences (DELTA_BYTE_ARRAY)", "a few bytes stand for any number of others");
            return Err(error.with_hint("write the file with the usual encodings: pandas has df.to_parquet(\"rows.parquet\")"));
        }
        Ok(())
    }
}

/// Refuses lists of lengths that say they are longer than their page.
fn check_lengths(group: &dyn RowGroupReader, column: usize) -> Result<()> {
    let descriptor = group.metadata().column(column).column_descr_ptr();
    for page in group.get_column_page_reader(column).map_err(|error| bad(&error))? {
        let (body, values) = match page.map_err(|error| bad(&error))? {
            Page::DataPage { buf, num_values, encoding: Encoding::DELTA_LENGTH_BYTE_ARRAY, .. } => {
                // Levels say how long they are, in four bytes before them.
                let levels = [descriptor.max_rep_level(), descriptor.max_def_level()].into_iter().filter(|level| *level > 0);
                let behind = levels.into_iter().try_fold(&buf[..], |left, _| {
                    let (length, left) = left.split_first_chunk::<4>()?;
                    left.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)
                });
                (behind.map(<[u8]>::to_vec), num_values)
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding: Encoding::DELTA_LENGTH_BYTE_ARRAY,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let levels = u64::from(def_levels_byte_len) + u64::from(rep_levels_byte_len);
                (usize::try_from(levels).ok().and_then(|levels| buf.get(levels..)).map(<[u8]>::to_vec), num_values)
            }
            _ => continue,
        };
        // The size of a block, its parts, and how many lengths there are: the third number.
        let body = body.ok_or_else(|| PARQUET.refused("a page ends too soon"))?;
        let ends = body.iter().take(30).enumerate().filter(|(_, byte)| **byte < 0x80).map(|(at, _)| at + 1).collect::<Vec<_>>();
        let count = ends.get(1).zip(ends.get(2)).and_then(|(start, end)| body.get(*start..*end)).map(unsigned);
        if count.is_none_or(|count| count > u64::from(values)) {
            return Err(Error::mismatch("lengths of a page", format!("at most {values}"), "more").with_hint("is the file complete?"));
        }
    }
    Ok(())
}

/// Seven bits a byte, the lowest first; what is longer than a number counts as the largest.
fn unsigned(bytes: &[u8]) -> u64 {
    if bytes.len() > 9 {
        return u64::MAX;
    }
    bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use bytes::Bytes;
    use parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};
    use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::file::reader::SerializedFileReader;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::each;
    use super::super::tests::{written, written_with};
    use super::*;

    fn refused(bytes: Vec<u8>) -> String {
        let error = each(&bytes.into(), &mut |_| Ok(())).expect_err("it is refused");
        format!("{error} {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn rows_without_end_are_refused() {
        let whole = Bytes::from(written(Compression::SNAPPY).expect("a file"));
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&whole).expect("metadata");
        for rows in [1 << 40, i64::MAX, -1] {
            let groups = metadata.row_groups().iter().map(|group| group.clone().into_builder().set_num_rows(rows).build());
            let lying = metadata.clone().into_builder().set_row_groups(groups.collect::<Result<_, _>>().expect("groups")).build();
            let mut bytes = whole[..whole.len() - 8 - footer(&whole).expect("a footer").len()].to_vec();
            ParquetMetaDataWriter::new(&mut bytes, &lying).finish().expect("it is written");
            let said = refused(bytes);
            assert!(said.contains("rows: expected 0 to ") && said.contains(&format!("found {rows}")), "{said}");
        }
    }

    #[test]
    fn groups_in_groups_without_end_are_refused() {
        for (depth, is_refused) in [(20, false), (40, true)] {
            let groups = (0..depth).fold(String::new(), |groups, at| groups + &format!("REQUIRED GROUP g{at} {{ "));
            let schema = format!("message rows {{ {groups} REQUIRED INT32 x; {} }}", "}".repeat(depth));
            let mut bytes = vec![];
            let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
            SerializedFileWriter::new(&mut bytes, schema, Arc::default()).and_then(SerializedFileWriter::close).expect("it is written");
            assert_eq!(check_footer(&bytes).is_err(), is_refused, "{depth}");
        }
    }

    #[test]
    fn a_file_packed_in_another_way_is_told_so_and_not_called_no_parquet_file() {
        let column = |packing| check_packing(packing).map_err(|error| format!("{error} {}", error.hint().unwrap_or_default()));
        for packing in [Compression::LZ4, Compression::LZO, Compression::BROTLI(BrotliLevel::default())] {
            let said = column(packing).expect_err("it is refused");
            assert!(said.contains("a Parquet file packed with") && said.contains("zstd"), "{said}");
        }
        assert_eq!(column(Compression::ZSTD(ZstdLevel::default())), Ok(()));
    }

    #[test]
    fn lengths_of_texts_are_counted_before_they_are_listed() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = WriterProperties::builder().set_dictionary_enabled(false).set_writer_version(version);
            let whole = written_with(properties.set_column_encoding("text".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY).build());
            let mut bytes = whole.expect("a file");
            assert!(each(&bytes.clone().into(), &mut |_| Ok(())).is_ok());
            // Blocks of 128 lengths in 4 parts; 2 lengths, which become 127.
            let at = bytes.windows(4).position(|window| window == [0x80, 1, 4, 2]).expect("the lengths' header");
            bytes[at + 3] = 127;
            let said = refused(bytes);
            assert!(said.contains("lengths of a page: expected at most 2"), "{said}");
        }
    }

    /// The header of a page and the page, with what it says of itself.
    fn page(kind: u8, unpacked: u64, values: u64, encoding: u64, body: &[u8]) -> Vec<u8> {
        fn put(into: &mut Vec<u8>, number: u64) {
            let mut left = number << 1;
            while left >= 0x80 {
                into.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
                left >>= 7;
            }
            into.push(u8::try_from(left).expect("seven bits"));
        }
        let mut header = vec![];
        for number in [if kind == 7 { 2 } else { 0 }, unpacked, u64::try_from(body.len()).expect("small")] {
            header.push(0x15);
            put(&mut header, number);
        }
        header.push((kind - 3) * 16 + 12);
        for number in [values, encoding] {
            header.push(0x15);
            put(&mut header, number);
        }
        header.extend([0, 0]);
        header.extend(body);
        header
    }

    #[test]
    fn pages_that_say_more_than_they_hold_are_refused() {
        let gz = |bytes: &[u8]| {
            let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
            packed.write_all(bytes).expect("memory takes it");
            packed.finish().expect("it is packed")
        };
        let column = |compression: Compression| {
            let reader = SerializedFileReader::new(Bytes::from(written(compression).expect("a file"))).expect("a file");
            reader.metadata().row_group(0).column(0).clone()
        };
        let (snappy, gzip) = (column(Compression::SNAPPY), column(Compression::GZIP(GzipLevel::default())));
        for (column, page, expected) in [
            (&snappy, page(5, (1 << 31) - 1, 2, 0, b"tiny"), Some("bytes of a page: expected at most 67108864")),
            (&snappy, page(7, 100, (1 << 31) - 1, 0, b"tiny"), Some("values of a dictionary: expected at most 25")),
            (&snappy, page(5, 100, 2, 7, b"tiny"), Some("DELTA_BYTE_ARRAY")),
            (&gzip, page(5, 100, 2, 0, &gz(&[0; 5000])), Some("bytes of a page: expected 100, found more")),
            (&gzip, page(5, 5000, 2, 0, &gz(&[0; 5000])), None),
            (&snappy, page(7, 100, 25, 0, b"tiny"), None),
        ] {
            let (header, rest) = PageHeader::read(&page).expect("a header");
            assert!(rest.is_empty());
            match (header.check(column), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.to_string().contains(words) && error.hint().is_some(), "{error}"),
                (found, _) => panic!("{expected:?}: {found:?}"),
            }
        }
        let endless = page(5, 100, 1 << 40, 0, b"tiny");
        let (header, _) = PageHeader::read(&endless).expect("a header");
        assert!(Budget::of("values", b"tiny").spend(header.values).is_err());
    }
}
