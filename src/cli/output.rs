//! Text for people: tables, numbers with units.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};

/// Writes a line to standard error, for people. Where that cannot be written nobody is told, and the work goes on.
pub(super) fn note(text: &str) {
    let mut line = text.to_owned();
    line.push('\n');
    // One call for the line, so that those of other threads stay whole.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

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
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self::named(columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect())
    }

    /// A table whose headings are known only when it is made.
    pub(super) fn named(columns: Vec<(String, Align)>) -> Self {
        Self { columns, rows: vec![] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| shown(&cell)).collect());
    }

    /// The table as text, each line after `indent` spaces.
    pub(super) fn render(&self, indent: usize) -> String {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
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

/// Text that a file may have brought along, as one short line: what is long is cut, and what would command the terminal is spelled out.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut letters = text.chars();
    let start: String = letters.by_ref().take(LONGEST).collect();
    let rest = if letters.next().is_some() { "..." } else { "" };
    printable(&start, |_| false) + rest
}

/// Text without the characters that command a terminal, save for those that are wanted.
pub(super) fn printable(text: &str, is_wanted: fn(char) -> bool) -> String {
    let commands = |letter: char| (letter.is_control() || is_turning(letter)) && !is_wanted(letter);
    if !text.contains(commands) {
        return text.to_owned();
    }
    text.chars().flat_map(|letter| if commands(letter) { letter.escape_default().collect() } else { vec![letter] }).collect()
}

/// Whether a character changes the direction of those behind it.
fn is_turning(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

/// A number without zeros behind its last digit that counts.
pub(super) fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A share in percent with three digits: `0.684 %`; more than the whole is said as that.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part > whole {
        return "more than 100 %".to_owned();
    }
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
    fn what_files_bring_along_commands_no_terminal_and_is_cut() {
        let mut table = Table::new(&[("name", Align::Left), ("more", Align::Right)]);
        table.row(["\u{1b}[2Jq_proj\n".to_owned(), "n".repeat(100_000)]);
        let text = table.render(0);
        assert!(text.contains("\\u{1b}[2Jq_proj\\n") && text.len() < 1000, "{text}");
        assert_eq!(printable("a\nb\u{202e}c", |letter| letter == '\n'), "a\nb\\u{202e}c");
    }

    #[test]
    fn columns_are_as_wide_as_they_need_be() {
        let mut table = Table::new(&[("module", Align::Left), ("params", Align::Right)]);
        table.row(["q_proj".to_owned(), "12".to_owned()]);
        table.row(["a.long.name".to_owned(), "1,200,000".to_owned()]);
        assert_eq!(table.render(2), "  module          params\n  q_proj              12\n  a.long.name  1,200,000\n");
    }
}
