//! Bytes → text. Compressed files are decompressed; a text that is not UTF-8 is read in its most likely encoding, with a warning.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::text::Text;
use crate::error::{Error, Place, Result};
use crate::files;
use crate::num;

/// A packed file may become this many times as large, or [`UNPACKED`] bytes, without being taken for a trap.
const PACKED: u64 = 200;
const UNPACKED: u64 = 256 << 20;

/// What is unpacked is kept in memory up to this size, in bytes; more goes to a temporary file.
const IN_MEMORY: u64 = 64 << 20;

/// Whether bytes begin as a gzip file does (RFC 1952), and as no text does.
pub(super) fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// The content of a gzip file.
///
/// # Errors
/// Bytes that are none, or that unpack to a size beyond reason.
pub(super) fn unpacked(bytes: &[u8]) -> Result<Bytes> {
    let most = num::wide(bytes.len()).saturating_mul(PACKED).max(UNPACKED);
    let content = spooled(&mut flate2::read::MultiGzDecoder::new(bytes).take(most + 1))
        .map_err(|error| Error::format("a gzip file", error).with_hint("is the file complete, and is .gz its right ending?"))?;
    if num::wide(content.len()) > most {
        return Err(Error::mismatch("unpacked bytes", format!("at most {most}"), "more").with_hint("unpack the file first, if it is meant"));
    }
    Ok(content)
}

/// All that a reader gives, which is read only once: in memory if it is little, else in a temporary file.
///
/// # Errors
/// If it cannot be read, or the file not be written.
pub(super) fn spooled(reader: &mut impl Read) -> Result<Bytes> {
    let mut start = vec![];
    reader.by_ref().take(IN_MEMORY).read_to_end(&mut start)?;
    if u64::try_from(start.len()).is_ok_and(|length| length < IN_MEMORY) {
        return Ok(start.into());
    }
    // A file without a name: nothing is left of it however the process ends.
    let mut file = tempfile::tempfile()?;
    file.write_all(&start)?;
    drop(start);
    io::copy(reader, &mut file)?;
    file.flush()?;
    files::map_open(&file)
}

/// The text that bytes are, in whatever encoding; any but UTF-8 is told as a warning.
///
/// # Errors
/// [`Format`](crate::ErrorKind::Format) with the line for bytes that are no text.
pub(super) fn text_of(bytes: &Bytes, path: &Path) -> Result<Text> {
    if bytes.starts_with(&[0xff, 0xfe, 0, 0]) || bytes.starts_with(&[0, 0, 0xfe, 0xff]) {
        return Err(Error::unsupported("a file in UTF-32", "text is read as UTF-8").with_hint("save it as UTF-8"));
    }
    if let Some((encoding, mark)) = Encoding::for_bom(bytes).filter(|(encoding, _)| *encoding != UTF_8) {
        return decoded(&bytes[mark..], encoding, path).map(Text::of);
    }
    if let Some(encoding) = wide(bytes) {
        return decoded(bytes, encoding, path).map(Text::of);
    }
    let at = match std::str::from_utf8(bytes) {
        Ok(text) => {
            let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
            return Ok(Text::stored(bytes.slice(mark..)));
        }
        Err(error) => error.valid_up_to(),
    };
    let line = bytes[..at].split(|byte| *byte == b'\n').count();
    let broken = |why: &str| Error::format("UTF-8 text", why).at(Place::Line(line)).with_hint("save the file as UTF-8");
    if bytes.contains(&0) {
        return Err(broken("there are zero bytes, as in no text"));
    }
    // Characters of several bytes before the bad one: the file is in UTF-8 and broken.
    if !bytes[..at].is_ascii() {
        return Err(broken("a character is broken"));
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    decoded(bytes, detector.guess(None, Utf8Detection::Deny), path).map(Text::of)
}

fn decoded(bytes: &[u8], encoding: &'static Encoding, path: &Path) -> Result<String> {
    let (text, has_failed) = encoding.decode_without_bom_handling(bytes);
    if has_failed {
        let why = format!("neither is it {}", encoding.name());
        return Err(Error::format("UTF-8 text", why).with_hint("save the file as UTF-8"));
    }
    if is_first(path) {
        tracing::warn!("{}: not UTF-8, read as {}", path.display(), encoding.name().to_lowercase());
    }
    Ok(text.into_owned())
}

/// Whether a file's encoding was not told of before: a command reads the same file several times.
fn is_first(path: &Path) -> bool {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    TOLD.lock().map_or(true, |mut told| told.insert(path.to_path_buf()))
}

/// UTF-16 without its mark: every other byte of the beginning is zero.
fn wide(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = &bytes[..bytes.len().min(64) & !1];
    let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    match (start.len() / 2, zeros(0), zeros(1)) {
        (pairs @ 2.., 0, zeros) if zeros * 4 >= pairs * 3 => Some(UTF_16LE),
        (pairs @ 2.., zeros, 0) if zeros * 4 >= pairs * 3 => Some(UTF_16BE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_in_the_encodings_that_people_have() {
        let wide = |text: &str, mark: bool, swap: bool| -> Vec<u8> {
            let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units.flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let text = "text,label\nun café très agréable, où l'été s'achève,1\n";
        let rows: [(&str, Vec<u8>); 7] = [
            ("UTF-8", text.into()),
            ("UTF-8 with its mark", format!("\u{feff}{text}").into()),
            ("UTF-16", wide(text, true, false)),
            ("UTF-16, the other way round", wide(text, true, true)),
            ("UTF-16 without its mark", wide(text, false, false)),
            ("UTF-16 without its mark, the other way round", wide(text, false, true)),
            ("windows-1252", text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()),
        ];
        for (what, bytes) in rows {
            let read = text_of(&bytes.into(), Path::new("a.csv"));
            assert_eq!(read.as_ref().ok().and_then(|read| read.read().ok()), Some(text), "{what}");
        }
        let rows: [(&[u8], &str); 3] = [
            (b"\xc3\xa9\nab\xe9\n", "line 2: not UTF-8 text: a character is broken"),
            (b"abc\xff\x00\x01", "line 1: not UTF-8 text: there are zero bytes"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
        ];
        for (bytes, expected) in rows {
            let error = text_of(&bytes.into(), Path::new("a.csv")).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        }
    }
}
