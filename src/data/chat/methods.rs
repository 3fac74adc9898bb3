//! Methods of Python's strings and lists that the engine's own set of them does not have, or has otherwise.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Why a template cannot go on.
pub(super) fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// What a method gives; nothing where it is not one of these.
pub(super) fn call(state: &State<'_, '_>, value: &Value, name: &str, given: &[Value]) -> Result<Option<Value>, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => of_string(state, text, name, given),
        (None, ValueKind::Seq) if name == "index" => of_index(value, given).map(Some),
        (None, ValueKind::Seq | ValueKind::Map) if name == "copy" => {
            let () = from_args(given)?;
            Ok(Some(value.clone()))
        }
        _ => Ok(None),
    }
}

fn of_index(list: &Value, given: &[Value]) -> Result<Value, Error> {
    let (wanted, start): (&Value, Option<usize>) = from_args(given)?;
    let start = start.unwrap_or_default();
    let found = list.try_iter()?.enumerate().skip(start).find(|(_, item)| item == wanted);
    found.map(|(at, _)| Value::from(at)).ok_or_else(|| refused(format!("{wanted:?} is not in list")))
}

fn of_string(state: &State<'_, '_>, text: &str, name: &str, given: &[Value]) -> Result<Option<Value>, Error> {
    let changed = |change: fn(&str) -> String| {
        let () = from_args(given)?;
        Ok::<_, Error>(Value::from(change(text)))
    };
    Ok(Some(match name {
        "split" | "rsplit" => parts(text, name == "rsplit", given)?.into_iter().map(Value::from).collect(),
        "partition" | "rpartition" => Value::from(Tuple::new(partition(text, name == "rpartition", given)?.map(Value::from).to_vec())),
        "splitlines" => lines(text, given)?.into_iter().map(Value::from).collect(),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(given)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(given)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => place(text, name, given)?,
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(given)?;
            Value::from(slice(text, start, end).map_or(0, |(_, part)| part.matches(what).count()))
        }
        "startswith" | "endswith" => Value::from(has_end(text, name == "startswith", given)?),
        "zfill" => {
            let (width,): (i64,) = from_args(given)?;
            let (sign, digits) = text.split_at(text.find(|c| !['+', '-'].contains(&c)).unwrap_or(text.len()).min(1));
            let width = usize::try_from(width).unwrap_or_default().saturating_sub(sign.len());
            Value::from(sign.to_owned() + &padded(state, digits, width, '0', Side::Left)?)
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(given)?;
            let side = match name {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            Value::from(padded(state, text, usize::try_from(width).unwrap_or_default(), fill.unwrap_or(' '), side)?)
        }
        "expandtabs" => {
            let (size, named): (Option<i64>, Kwargs) = from_args(given)?;
            let size = size.or(named.get("tabsize")?).unwrap_or(8);
            named.assert_all_used()?;
            Value::from(without_tabs(state, text, size)?)
        }
        "swapcase" => changed(|text| text.chars().map(swapped).collect())?,
        "casefold" => changed(|text| text.chars().map(folded).collect())?,
        "title" => changed(title)?,
        "isdecimal" => {
            let () = from_args(given)?;
            Value::from(!text.is_empty() && text.chars().all(char::is_numeric))
        }
        _ => return Ok(None),
    }))
}

/// What Python takes for space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `split` and `rsplit`: at a separator, or at runs of spaces; at most so many times.
fn parts(text: &str, is_from_right: bool, given: &[Value]) -> Result<Vec<String>, Error> {
    let (separator, most, named): (Option<String>, Option<i64>, Kwargs) = from_args(given)?;
    let separator = separator.or(named.get("sep")?);
    let most = most.or(named.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
    named.assert_all_used()?;
    let Some(separator) = separator else { return Ok(words(text, is_from_right, most)) };
    let separator = found(&separator)?;
    let limit = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<String> = if is_from_right {
        text.rsplitn(limit, separator).map(str::to_owned).collect()
    } else {
        text.splitn(limit, separator).map(str::to_owned).collect()
    };
    if is_from_right {
        parts.reverse();
    }
    Ok(parts)
}

fn found(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(refused("empty separator")) } else { Ok(separator) }
}

fn words(text: &str, is_from_right: bool, most: Option<usize>) -> Vec<String> {
    let trim = if is_from_right { |text| str::trim_end_matches(text, is_space) } else { |text| str::trim_start_matches(text, is_space) };
    let (mut rest, mut words) = (trim(text), vec![]);
    while !rest.is_empty() {
        let at = if is_from_right { rest.rfind(is_space) } else { rest.find(is_space) }.filter(|_| most != Some(words.len()));
        let Some(at) = at else {
            words.push(rest.to_owned());
            break;
        };
        let behind = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        let (word, others) = if is_from_right { (&rest[behind..], &rest[..at]) } else { (&rest[..at], &rest[behind..]) };
        words.push(word.to_owned());
        rest = trim(others);
    }
    if is_from_right {
        words.reverse();
    }
    words
}

fn partition<'t>(text: &'t str, is_from_right: bool, given: &'t [Value]) -> Result<[&'t str; 3], Error> {
    let (separator,): (&str,) = from_args(given)?;
    let parts = if is_from_right { text.rsplit_once(found(separator)?) } else { text.split_once(found(separator)?) };
    Ok(match parts {
        Some((before, behind)) => [before, separator, behind],
        None if is_from_right => ["", "", text],
        None => [text, "", ""],
    })
}

fn lines(text: &str, given: &[Value]) -> Result<Vec<String>, Error> {
    let (keeps, named): (Option<bool>, Kwargs) = from_args(given)?;
    let keeps = keeps.or(named.get("keepends")?).unwrap_or_default();
    named.assert_all_used()?;
    Ok(lines_of(text, keeps).into_iter().map(str::to_owned).collect())
}

/// `splitlines`: at every sign that ends a line.
pub(super) fn lines_of(text: &str, keeps: bool) -> Vec<&str> {
    const ENDS: &[char] = &['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut rest, mut lines) = (text, vec![]);
    while !rest.is_empty() {
        let at = rest.find(ENDS).unwrap_or(rest.len());
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keeps { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines
}

/// A part of a text from one letter to another, as Python slices, with the number of its first letter; none where it would begin behind its end.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count();
    let place = |given: i64| {
        let from_end = || length.saturating_sub(usize::try_from(given.unsigned_abs()).unwrap_or(usize::MAX));
        usize::try_from(given).unwrap_or_else(|_| from_end())
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place).min(length));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start <= end).then(|| (start, &text[byte(start)..byte(end)]))
}

/// `find`, `index`, and the same from the right.
fn place(text: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(given)?;
    let at = slice(text, start, end).and_then(|(first, part)| {
        let byte = if name.starts_with('r') { part.rfind(what) } else { part.find(what) }?;
        Some(first + part[..byte].chars().count())
    });
    match at {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("index") => Err(refused("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

/// `startswith` and `endswith`: with a text, or any of several.
fn has_end(text: &str, is_start: bool, given: &[Value]) -> Result<bool, Error> {
    let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(given)?;
    let Some((_, part)) = slice(text, start, end) else { return Ok(false) };
    let has = |wanted: &Value| match wanted.as_str() {
        Some(wanted) if is_start => Ok(part.starts_with(wanted)),
        Some(wanted) => Ok(part.ends_with(wanted)),
        None => Err(refused(format!("a text or several were expected, not {}", wanted.kind()))),
    };
    if wanted.kind() == ValueKind::Seq {
        return wanted.try_iter()?.try_fold(false, |any, wanted| Ok(any || has(&wanted)?));
    }
    has(wanted)
}

/// Where a text is filled up.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
    Both,
}

/// What a text of so many bytes costs before it is made.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(bytes / 64).unwrap_or(u64::MAX))
}

fn padded(state: &State<'_, '_>, text: &str, width: usize, fill: char, side: Side) -> Result<String, Error> {
    let missing = width.saturating_sub(text.chars().count());
    pay(state, missing.saturating_mul(fill.len_utf8()))?;
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        // An odd place goes to the left of what becomes odd, as `str.center` has it.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let filled = |count: usize| std::iter::repeat_n(fill, count);
    Ok(filled(left).chain(text.chars()).chain(filled(missing - left)).collect())
}

/// `str.center`.
pub(super) fn centered(state: &State<'_, '_>, text: &str, width: usize) -> Result<String, Error> {
    padded(state, text, width, ' ', Side::Both)
}

fn without_tabs(state: &State<'_, '_>, text: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size).unwrap_or_default();
    pay(state, text.matches('\t').count().saturating_mul(size))?;
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        if c == '\t' {
            let spaces = if size == 0 { 0 } else { size - column % size };
            out.extend(std::iter::repeat_n(' ', spaces));
            column += spaces;
        } else {
            out.push(c);
            column = if ['\n', '\r'].contains(&c) { 0 } else { column + 1 };
        }
    }
    Ok(out)
}

fn swapped(c: char) -> String {
    if c.is_lowercase() {
        c.to_uppercase().collect()
    } else if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_string()
    }
}

/// Unicode's folding of cases: what upper case makes lower; the dotless i has no other case, and Cherokee is folded to its capitals.
fn folded(c: char) -> String {
    match c {
        'ı' | '\u{13a0}'..='\u{13f5}' => c.to_string(),
        '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => c.to_uppercase().collect(),
        _ => c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect(),
    }
}

/// `str.title`: what stands behind a letter with a case is small, also behind an apostrophe's.
fn title(text: &str) -> String {
    let (mut out, mut is_inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if is_inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        is_inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}
