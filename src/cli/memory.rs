//! Sizes of memory as people write them: `8GB`, `500 MB`, `1.5GiB`.

use crate::error::Refusal;

/// Units, the longest first.
const UNITS: &[(&str, f64)] = &[
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("k", 1e3),
    ("m", 1e6),
    ("g", 1e9),
    ("t", 1e12),
    ("b", 1.0),
];

/// Bytes of a size.
///
/// # Errors
/// What is no number with one of the units.
pub(super) fn parse(text: &str) -> Result<u64, Refusal> {
    let small = text.trim().to_lowercase();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((small.strip_suffix(unit)?.trim_end().to_owned(), *factor)))
        .unwrap_or((small.clone(), 1.0));
    let bytes = number.parse::<f64>().ok().map(|number| number * factor).filter(|bytes| *bytes >= 1.0 && *bytes < 9e18);
    bytes.map(rounded).ok_or_else(|| format!("expected a size such as 8GB or 500MB, found {text:?}").into())
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 9e18")]
fn rounded(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("8GB", Some(8_000_000_000)), ("1.5 GiB", Some(1_610_612_736)), ("500m", Some(500_000_000)), ("4096", Some(4096))]
        {
            assert_eq!(parse(text).ok(), bytes, "{text}");
        }
        for wrong in ["", "GB", "-1GB", "8XB", "nan", "1e30TB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
