//! What chat templates call and Python gives them: `tojson` as `json.dumps`, `strftime_now`, and `%` between strings.

use std::fmt::Write as _;
use std::io;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, TimeZone};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde::Serialize;

use super::filters;
use super::methods::refused;
use super::tags::{ITEMS, MODULO, TEXT};
use super::text;
use super::weight;

/// The engine with what Python's has; every template has the same.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    // A tag on a line of its own leaves nothing of the line.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax?);
    environment.set_formatter(text::write);
    environment.set_unknown_method_callback(text::method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| strftime(format, &chrono::Local::now()));
    environment.add_function(MODULO, modulo);
    environment.add_function(TEXT, text::text);
    environment.add_function(ITEMS, text::items);
    weight::guard(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", text::text);
    environment.add_filter("join", text::join);
    environment.add_filter("format", text::format);
    environment.add_filter(text::JOIN, minijinja::filters::join);
    environment.add_filter(text::FORMAT, minijinja::filters::format);
    filters::add(&mut environment);
    Ok(environment)
}

/// Refuses the conversation, in the template's words.
pub(super) fn raise_exception(message: String) -> Result<String, Error> {
    Err(refused(message))
}

/// Python's `a % b`: a remainder, or a text with places for what stands right of it.
pub(super) fn modulo(state: &mut State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return text::formatted(state, format, right);
    }
    if let (Some(a), Some(b)) = (left.as_i64(), right.as_i64()) {
        let remainder = a.checked_rem(b).ok_or_else(|| refused("a remainder of a division by zero"))?;
        return Ok(Value::from(if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }));
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(a), Ok(b)) if b != 0.0 => Ok(Value::from(a - b * (a / b).floor())),
        _ => Err(refused(format!("no remainder of {} and {}", left.kind(), right.kind()))),
    }
}

/// `json.dumps` with `ensure_ascii`, `indent`, `separators` and `sort_keys`; not ASCII by default, as transformers has it.
#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
pub(super) fn to_json(value: &Value, places: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let option = |at: usize| match (options.get::<Option<Value>>(NAMES[at])?, places.get(at)) {
        (Some(named), _) => Ok::<_, Error>(Some(named)),
        (None, placed) => Ok(placed.cloned()),
    };
    let given = |at: usize| Ok::<_, Error>(option(at)?.filter(|value| !value.is_none() && !value.is_undefined()));
    let indent = match given(1)? {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(width) => Some(" ".repeat(usize::try_from(width)?.min(64))),
    };
    let separators = given(2)?.map(|pair| Ok::<_, Error>([pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()]));
    let [item, key] = separators.transpose()?.unwrap_or_else(|| [if indent.is_some() { "," } else { ", " }.into(), ": ".into()]);
    let format = Format { indent, item, key, is_ascii: given(0)?.is_some_and(|value| value.is_true()) };
    let is_sorted = given(3)?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(refused("an undefined value is not JSON serializable"));
    }
    let bad = |error: String| Error::new(ErrorKind::BadSerialization, error);
    let mut json = serde_json::to_value(value).map_err(|error| bad(error.to_string()))?;
    if is_sorted {
        json.sort_all_objects();
    }
    let mut text = vec![];
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Python { format: &format, depth: 0, is_empty: true }))
        .map_err(|error| bad(error.to_string()))?;
    String::from_utf8(text).map_err(|error| bad(error.to_string()))
}

/// How `json.dumps` was asked to write.
struct Format {
    indent: Option<String>,
    item: String,
    key: String,
    is_ascii: bool,
}

struct Python<'a> {
    format: &'a Format,
    depth: usize,
    is_empty: bool,
}

impl Python<'_> {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.format.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        (self.depth, self.is_empty) = (self.depth + 1, true);
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.is_empty) {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            writer.write_all(self.format.item.as_bytes())?;
        }
        self.is_empty = false;
        self.line(writer)
    }
}

impl serde_json::ser::Formatter for Python<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.format.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        writer.write_all(text::float(number).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.format.is_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => writer.write_all(&[byte])?,
                _ => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

/// The codes of `strftime` that C's library has.
const CODES: &[char] = &[
    'a', 'A', 'b', 'B', 'c', 'C', 'd', 'D', 'e', 'f', 'F', 'g', 'G', 'h', 'H', 'I', 'j', 'k', 'l', 'm', 'M', 'n', 'p', 'P', 'r', 'R', 's',
    'S', 't', 'T', 'u', 'U', 'V', 'w', 'W', 'x', 'X', 'y', 'Y', 'z', 'Z', '%',
];

/// A time in words, by the codes of `strftime`; a code that there is not stays as it is.
pub(super) fn strftime<Zone: TimeZone<Offset: std::fmt::Display>>(format: &str, time: &DateTime<Zone>) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text += &rest[..at];
        let behind = &rest[at + 1..];
        let mut length = behind.len() - behind.trim_start_matches(['-', '_', '0', '^', '#']).len();
        length += behind[length..].chars().next().map_or(0, char::len_utf8);
        let code = &rest[at..=at + length];
        let items: Vec<Item<'_>> = match code {
            // The time of a clock without a zone has none to write.
            "%z" | "%Z" => vec![],
            // Python's microseconds are nanoseconds there.
            "%f" => StrftimeItems::new("%6f").collect(),
            _ => StrftimeItems::new(code).collect(),
        };
        let is_known = code.ends_with(CODES) && !items.iter().any(|item| matches!(item, Item::Error));
        if !is_known || write!(text, "{}", time.format_with_items(items.iter())).is_err() {
            text += code;
        }
        rest = &behind[length..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn dates_are_written_as_templates_ask() {
        struct Case(i64, &'static str, &'static str);
        const USUAL: &str = "%d %b %Y %Y-%m-%d %H:%M:%S %B 100%% %q";
        for Case(seconds, format, expected) in [
            Case(0, USUAL, "01 Jan 1970 1970-01-01 00:00:00 January 100% %q"),
            Case(951_782_399, USUAL, "28 Feb 2000 2000-02-28 23:59:59 February 100% %q"),
            Case(951_782_400, USUAL, "29 Feb 2000 2000-02-29 00:00:00 February 100% %q"),
            Case(
                1_735_689_599,
                "%A %a %d %B %b %Y %j %y %p %I %m %-d %f %",
                "Tuesday Tue 31 December Dec 2024 366 24 PM 11 12 31 000000 %",
            ),
        ] {
            let time = Utc.timestamp_opt(seconds, 0).single().expect("a time");
            assert_eq!(strftime(format, &time), expected);
        }
    }
}
