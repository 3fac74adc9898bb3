//! Text for people: tables, numbers with units.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};

/// Writes text to standard output.
///
/// # Errors
/// If nobody reads it.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes a value to standard output as JSON.
///
/// # Errors
/// If nobody reads it.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::format("JSON", error))?;
    print(&text)
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under headings, in columns as wide as they need be, two spaces between them.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: vec![] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text, each line after `indent` spaces.
    pub(super) fn render(&self, indent: usize) -> String {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&heading).chain(&self.rows).collect();
        let width = |at: usize| lines.iter().filter_map(|cells| cells.get(at)).map(|cell| cell.chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for cells in lines {
            let mut line = " ".repeat(indent);
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                }
                .expect("writing to a string does not fail");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A whole number with commas between its thousands: `134,515,008`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length in bytes, in the largest unit of which there is one: `4.7 MB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (float(number), 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A share in percent with three digits: `0.684 %`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    format!("{:.3} %", 100.0 * float(part) / float(whole.max(1)))
}

/// A time as people say it: `41 s`, `3 min 05 s`, `2 h 07 min`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers for people have few digits")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (134_515_008, "134,515,008")] {
            assert_eq!(count(number), text);
        }
        for (number, text) in [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (4_718_592, "4.7 MB"), (123_456_789, "123 MB")] {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [(4.25, "4.2 s"), (41.0, "41 s"), (185.0, "3 min 05 s"), (7_620.0, "2 h 07 min")] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(percent(921_600, 134_515_008), "0.685 %");
    }

    #[test]
    fn columns_are_as_wide_as_they_need_be() {
        let mut table = Table::new(&[("module", Align::Left), ("params", Align::Right)]);
        table.row(["q_proj".to_owned(), "12".to_owned()]);
        table.row(["a.long.name".to_owned(), "1,200,000".to_owned()]);
        assert_eq!(table.render(2), "  module          params\n  q_proj              12\n  a.long.name  1,200,000\n");
    }
}
