//! Values of templates as text: Python's `str` and `repr`, and where a template asks for them. The engine has its own, which writes numbers with a
//! fraction otherwise: `1e-5` for `1e-05`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};

use super::methods::{self, refused};

/// Lists in lists that are written.
pub(super) const DEPTH: usize = 150;

/// A number as Python writes it: the fewest digits that say which it is, with an exponent below 1e-4 and from 1e16 on (`float.__repr__`).
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        Some(_) => format!("{number:?}"),
        None => number.to_string(),
    }
}

/// The number with a fraction that a value is.
fn fraction(value: &Value) -> Option<f64> {
    let is_fraction = value.kind() == ValueKind::Number && !value.is_integer();
    f64::try_from(value.clone()).ok().filter(|_| is_fraction)
}

/// Python's `str`: a text is itself, and what there is not stays so.
///
/// # Errors
/// A text that the template has no steps left for, or lists in lists without end.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let is_container = matches!(value.kind(), ValueKind::Seq | ValueKind::Map);
    if fraction(value).is_none() && !is_container {
        return Ok(if value.is_undefined() || value.as_str().is_some() { value.clone() } else { Value::from(value.to_string()) });
    }
    let mut written = Written { text: String::new(), most: state.fuel_levels().map_or(u64::MAX, |(_, left)| left.saturating_mul(64)) };
    written.repr(value, 0)?;
    state.consume_fuel(u64::try_from(written.text.len() / 64).unwrap_or(u64::MAX))?;
    Ok(Value::from(written.text))
}

/// Python's `repr`: a text with its quotation marks.
///
/// # Errors
/// As [`text`].
pub(super) fn repr(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => Ok(Value::from(quoted(text, false))),
        None => text(state, value),
    }
}

/// A text with its quotation marks, and codes for what is not printed; with `is_ascii`, for every letter that is not ASCII.
fn quoted(text: &str, is_ascii: bool) -> String {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(mark);
    for c in text.chars() {
        // What is printed is the same there, but for signs that join the letter in front.
        let is_printed =
            || c.is_ascii_graphic() || c == ' ' || !['a', c].iter().collect::<String>().escape_debug().skip(1).eq(c.escape_unicode());
        match c {
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            _ if c == mark || c == '\\' => out.extend(['\\', c]),
            _ if is_printed() && (c.is_ascii() || !is_ascii) && !c.is_control() => out.push(c),
            _ => {
                let code = u32::from(c);
                let _ = match code {
                    ..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
    out
}

/// A text that grows to a limit.
struct Written {
    text: String,
    most: u64,
}

impl Written {
    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(refused(format!("lists in lists, more than {DEPTH}")));
        }
        if u64::try_from(self.text.len()).is_ok_and(|length| length > self.most) {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        match value.kind() {
            ValueKind::Undefined => self.text += "Undefined",
            ValueKind::String => self.text += &quoted(value.as_str().unwrap_or_default(), false),
            ValueKind::Seq => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            _ => match fraction(value) {
                Some(number) => self.text += &float(number),
                None => write!(self.text, "{value:?}").map_err(|error| refused(error.to_string()))?,
            },
        }
        Ok(())
    }

    fn list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        let is_tuple = list.is_tuple();
        self.text += if is_tuple { "(" } else { "[" };
        let mut length = 0;
        for item in list.try_iter()? {
            self.text += if length == 0 { "" } else { ", " };
            self.repr(&item, depth + 1)?;
            length += 1;
        }
        self.text += match (is_tuple, length) {
            (true, 1) => ",)",
            (true, _) => ")",
            (false, _) => "]",
        };
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        self.text += "{";
        for (index, key) in map.try_iter()?.enumerate() {
            self.text += if index == 0 { "" } else { ", " };
            self.repr(&key, depth + 1)?;
            self.text += ": ";
            self.repr(&map.get_item(&key)?, depth + 1)?;
        }
        self.text += "}";
        Ok(())
    }
}

/// What `{{ value }}` writes.
pub(super) fn write(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = text(state, value)?;
    escape_formatter(output, state, &text)
}

/// `join` of what the items are as text.
#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
pub(super) fn join(state: &mut State<'_, '_>, value: &Value, separator: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let items = match options.get::<Option<Value>>("attribute")? {
        Some(attribute) => {
            let options = Value::from(Kwargs::from_iter([("attribute", attribute)]));
            state.apply_filter("map", &[value.clone(), options])?
        }
        None => value.clone(),
    };
    let separator = separator.or(options.get::<Option<Value>>("d")?);
    options.assert_all_used()?;
    let items = items.try_iter()?.map(|item| text(state, &item)).collect::<Result<Vec<_>, _>>()?;
    let given: Vec<Value> = std::iter::once(Value::from(items)).chain(separator).collect();
    state.apply_filter(JOIN, &given)
}

/// The engine's own `join` and `format`, by names that no template has.
pub(super) const JOIN: &str = "_join";
pub(super) const FORMAT: &str = "_format";

/// One `%(key)-5s` of a format.
struct Conversion<'f> {
    /// Where its letter stands.
    at: usize,
    letter: char,
    key: Option<&'f str>,
}

impl Conversion<'_> {
    fn apply(&self, state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
        match self.letter {
            'r' => repr(state, &value),
            's' => text(state, &value),
            _ => Ok(value),
        }
    }
}

/// The conversions of a format, but for `%%`.
fn conversions(format: &str) -> Vec<Conversion<'_>> {
    let (mut found, mut rest) = (vec![], format);
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        let key = rest.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        rest = key.map_or(rest, |(_, behind)| behind);
        let is_letter = |letter: char| !letter.is_ascii_digit() && !"-+ #.*".contains(letter);
        let Some((length, letter)) = rest.char_indices().find(|(_, letter)| is_letter(*letter)) else { break };
        if letter != '%' {
            found.push(Conversion { at: format.len() - rest.len() + length, letter, key: key.map(|(key, _)| key) });
        }
        rest = &rest[length + letter.len_utf8()..];
    }
    found
}

/// `%` behind a format: `values` are a tuple, a map that the format names keys of, or one value.
pub(super) fn formatted(state: &mut State<'_, '_>, format: &str, values: &Value) -> Result<Value, Error> {
    let conversions = conversions(format);
    // What is written as text already: the engine knows no `%r`.
    let places: Vec<usize> = conversions.iter().filter(|conversion| conversion.letter == 'r').map(|conversion| conversion.at).collect();
    let plain: String = format.char_indices().map(|(at, letter)| if places.contains(&at) { 's' } else { letter }).collect();
    let mut given = vec![Value::from(plain)];
    if values.kind() == ValueKind::Map && conversions.iter().any(|conversion| conversion.key.is_some()) {
        let entries = values.try_iter()?.map(|key| {
            let value = values.get_item(&key)?;
            let name = key.to_string();
            let asked = conversions.iter().find(|conversion| conversion.key == Some(name.as_str()));
            Ok::<_, Error>((name.clone(), asked.map_or(Ok(value.clone()), |conversion| conversion.apply(state, value))?))
        });
        given.push(entries.collect::<Result<Vec<_>, _>>()?.into_iter().collect::<Kwargs>().into());
    } else {
        let values: Vec<Value> = if values.is_tuple() { values.try_iter()?.collect() } else { vec![values.clone()] };
        for (index, value) in values.into_iter().enumerate() {
            given.push(conversions.get(index).map_or(Ok(value.clone()), |conversion| conversion.apply(state, value))?);
        }
    }
    state.apply_filter(FORMAT, &given)
}

/// The filter `format`.
#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
pub(super) fn format(state: &mut State<'_, '_>, format: &str, values: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    if named.args().next().is_some() {
        return formatted(
            state,
            format,
            &Value::from_pairs(
                named.args().map(|name| Ok::<_, Error>((name.to_owned(), named.get::<Value>(name)?))).collect::<Result<Vec<_>, _>>()?,
            ),
        );
    }
    formatted(state, format, &Value::from(Tuple::new(values.0)))
}

/// Python's methods.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    if let Some(made) = methods::call(state, value, name, given)? {
        return Ok(made);
    }
    let Some(format) = value.as_str().filter(|_| name == "format") else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, given);
    };
    let (format, mut given) = converted(state, format, given)?;
    // A format without a colon asks for each value as text.
    if !format.contains(':') {
        let as_text = |given: &Value| if fraction(given).is_some() { text(state, given) } else { Ok(given.clone()) };
        given = given.iter().map(as_text).collect::<Result<Vec<_>, _>>()?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, &Value::from(format), name, &given)
}

/// A format whose values are texts where it asks for them as such (`{0!r}`), and the values: the engine knows no conversions.
fn converted(state: &State<'_, '_>, format: &str, given: &[Value]) -> Result<(String, Vec<Value>), Error> {
    let (placed, named) = match given.split_last() {
        Some((last, others)) if last.is_kwargs() => (others, Some(last)),
        _ => (given, None),
    };
    let Some(fields) = fields(format).filter(|fields| fields.iter().any(|field| field.conversion.is_some())) else {
        return Ok((format.to_owned(), given.to_vec()));
    };
    let (mut values, mut out, mut written, mut next) = (placed.to_vec(), String::new(), 0, 0_usize);
    for Field { range, name, conversion, specification } in fields {
        let name = if name.is_empty() { next.to_string() } else { name.to_owned() };
        next += 1;
        out += &format[written..range.start];
        written = range.end;
        let Some(conversion) = conversion else {
            let _ = write!(out, "{{{name}{specification}}}");
            continue;
        };
        let value = match name.parse::<usize>() {
            Ok(at) => placed.get(at).cloned(),
            Err(_) => named.map(|named| named.get_attr(&name)).transpose()?.filter(|value| !value.is_undefined()),
        };
        let value = value.ok_or_else(|| refused(format!("no value for {{{name}}} in a format")))?;
        let _ = write!(out, "{{{}{specification}}}", values.len());
        values.push(match conversion {
            's' => text(state, &value)?,
            'r' => repr(state, &value)?,
            _ => value.as_str().map_or_else(|| text(state, &value), |text| Ok(Value::from(quoted(text, true))))?,
        });
    }
    out += &format[written..];
    Ok((out, values.into_iter().chain(named.cloned()).collect()))
}

/// A place in a format: `{name!r:>10}`.
struct Field<'f> {
    range: std::ops::Range<usize>,
    name: &'f str,
    conversion: Option<char>,
    /// With its colon.
    specification: &'f str,
}

/// The places of a format; nothing where one has another inside, or does not end.
fn fields(format: &str) -> Option<Vec<Field<'_>>> {
    let (mut found, mut at) = (vec![], 0);
    while let Some(open) = format[at..].find(['{', '}']).map(|place| at + place) {
        if format[open..].starts_with("{{") || format[open..].starts_with("}}") {
            at = open + 2;
            continue;
        }
        let inside = format[open..].strip_prefix('{')?;
        let length = inside.find(['{', '}']).filter(|end| inside[*end..].starts_with('}'))?;
        let inside = &inside[..length];
        at = open + length + 2;
        let (before, specification) = inside.split_at(inside.find(':').unwrap_or(length));
        let (name, conversion) = match before.split_once('!') {
            Some((name, conversion)) => (name, Some(conversion.chars().next().filter(|c| conversion.len() == 1 && "rsa".contains(*c))?)),
            None => (before, None),
        };
        found.push(Field { range: open..at, name, conversion, specification });
    }
    Some(found)
}

/// What a loop goes over: a list, so that the loop knows its length, of a text's letters too.
pub(super) fn items(state: &State<'_, '_>, values: Rest<Value>) -> Result<Value, Error> {
    let [value] = values.0.as_slice() else { return Ok(Value::from(Tuple::new(values.0))) };
    let list: Vec<Value> = match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().chars().map(Value::from).collect(),
        ValueKind::Iterable => value.try_iter()?.collect(),
        _ => return Ok(value.clone()),
    };
    state.consume_fuel(u64::try_from(list.len()).unwrap_or(u64::MAX))?;
    Ok(Value::from(list))
}
