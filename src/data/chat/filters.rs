//! Filters of Jinja2 that the engine does not have, or has otherwise.

use std::fmt::Write as _;
use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::methods::{self, refused};
use super::text;

/// Adds them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("attr", attr);
    environment.add_filter("center", center);
    environment.add_filter("forceescape", minijinja::filters::escape);
    environment.add_filter("striptags", striptags);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("wordwrap", wordwrap);
}

/// What a value is as text.
fn soft(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let text = text::text(state, value)?;
    Ok(text.as_str().map(str::to_owned).unwrap_or_default())
}

/// The options of a filter, by their places or their names.
struct Options<'a> {
    placed: &'a [Value],
    named: &'a Kwargs,
}

impl Options<'_> {
    fn get(&self, at: usize, name: &str) -> Result<Option<Value>, Error> {
        let given = match self.placed.get(at) {
            Some(placed) => Some(placed.clone()),
            None => self.named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    }

    fn number(&self, at: usize, name: &str, default: usize) -> Result<usize, Error> {
        self.get(at, name)?.map_or(Ok(default), usize::try_from)
    }

    fn is_true(&self, at: usize, name: &str, default: bool) -> Result<bool, Error> {
        Ok(self.get(at, name)?.map_or(default, |value| value.is_true()))
    }

    fn text(&self, at: usize, name: &str, default: &str) -> Result<String, Error> {
        Ok(self.get(at, name)?.map_or_else(|| default.to_owned(), |value| value.to_string()))
    }
}

/// An attribute, which the items of a map are not.
fn attr(value: &Value, name: &Value) -> Result<Value, Error> {
    // The engine's own `namespace` is a map there, and its variables are attributes.
    let is_namespace = || value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"));
    match value.kind() {
        ValueKind::Undefined | ValueKind::Plain => value.get_item(name),
        ValueKind::Map if is_namespace() => value.get_item(name),
        _ => Ok(Value::UNDEFINED),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
fn center(state: &mut State<'_, '_>, value: &Value, placed: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let width = Options { placed: &placed, named: &named }.number(0, "width", 80)?;
    named.assert_all_used()?;
    methods::centered(state, &soft(state, value)?, width)
}

#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
fn truncate(state: &mut State<'_, '_>, value: &Value, placed: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let (text, options) = (soft(state, value)?, Options { placed: &placed, named: &named });
    let (length, kills_words) = (options.number(0, "length", 255)?, options.is_true(1, "killwords", false)?);
    let (end, leeway) = (options.text(2, "end", "...")?, options.number(3, "leeway", 5)?);
    named.assert_all_used()?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(refused(format!("expected length >= {}, got {length}", end.chars().count())));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(kept).collect();
    let kept = if kills_words { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(before, _)| before) };
    Ok(kept.to_owned() + &end)
}

fn wordcount(state: &mut State<'_, '_>, value: &Value) -> Result<usize, Error> {
    let text = soft(state, value)?;
    Ok(text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count())
}

/// What may stand in an address as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A text as a part of an address; of a map or of pairs, what stands behind its `?`.
fn urlencode(state: &mut State<'_, '_>, value: &Value) -> Result<String, Error> {
    fn quoted(text: &str, is_query: bool) -> String {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'/' if !is_query => out.push('/'),
                b' ' if is_query => out.push('+'),
                byte if is_plain(byte) => out.push(byte.into()),
                byte => drop(write!(out, "%{byte:02X}")),
            }
            out
        })
    }
    let mut pairs = vec![];
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                pairs.push([key.clone(), value.get_item(&key)?]);
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for pair in value.try_iter()? {
                pairs.push([pair.get_item_by_index(0)?, pair.get_item_by_index(1)?]);
            }
        }
        _ => return Ok(quoted(&soft(state, value)?, false)),
    }
    let pairs = pairs.iter().map(|[key, value]| Ok(format!("{}={}", quoted(&soft(state, key)?, true), quoted(&soft(state, value)?, true))));
    Ok(pairs.collect::<Result<Vec<_>, Error>>()?.join("&"))
}

/// A text without tags and comments of HTML, with single spaces and its entities as letters.
fn striptags(state: &mut State<'_, '_>, value: &Value) -> Result<String, Error> {
    // The engine's leaves a space where a text begins with some.
    let text = soft(state, value)?;
    Ok(minijinja_contrib::filters::striptags(text).trim().to_owned())
}

/// `wordsep_re` of Python's `textwrap`: spaces, and words up to a hyphen between letters.
static CHUNKS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let word = r#"[\w!"'&.,?]"#;
    let letter = r"[^\d\W]";
    let (space, other) = (r"[\t\n\x0b\x0c\r ]", r"[^\t\n\x0b\x0c\r ]");
    Regex::new(&format!(
        r"{space}+|(?<={word})-{{2,}}(?=\w)|{other}+?(?:-(?:(?<={letter}{letter}-)|(?<={letter}-{word}-))(?={letter}-?{letter})|(?={space}|\z)|(?<={word})(?=-{{2,}}\w))"
    ))
    .ok()
});

fn chunks(line: &str, breaks_on_hyphens: bool) -> Vec<&str> {
    let is_space = |c: char| "\t\n\x0b\x0c\r ".contains(c);
    let by_expression = CHUNKS.as_ref().filter(|_| breaks_on_hyphens);
    let found = by_expression.and_then(|expression| expression.find_iter(line).map(|found| Some(found.ok()?.as_str())).collect());
    found.unwrap_or_else(|| {
        let (mut chunks, mut rest) = (vec![], line);
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c| is_space(c) != is_space(first)).unwrap_or(rest.len());
            chunks.push(&rest[..end]);
            rest = &rest[end..];
        }
        chunks
    })
}

/// The first letters of a text, and all others.
fn cut(text: &str, letters: usize) -> (&str, &str) {
    text.split_at(text.char_indices().nth(letters).map_or(text.len(), |(at, _)| at))
}

/// `textwrap.wrap` without changes of spaces.
fn wrapped(line: &str, width: usize, breaks_words: bool, breaks_on_hyphens: bool) -> Vec<String> {
    let fits = |text: &str, letters: usize| text.chars().nth(letters).is_none();
    let is_blank = |text: &&str| text.trim().is_empty();
    let mut chunks = chunks(line, breaks_on_hyphens);
    chunks.reverse();
    let mut lines: Vec<String> = vec![];
    while !chunks.is_empty() {
        if !lines.is_empty() && chunks.last().is_some_and(is_blank) {
            chunks.pop();
        }
        let (mut current, mut left): (Vec<&str>, usize) = (vec![], width);
        while let Some(chunk) = chunks.pop_if(|chunk| fits(chunk, left)) {
            left -= chunk.chars().count();
            current.push(chunk);
        }
        if let Some(long) = chunks.pop_if(|chunk| !fits(chunk, width)) {
            if breaks_words {
                let part = cut(long, left).0;
                let hyphen = part.rfind('-').filter(|at| breaks_on_hyphens && part[..*at].contains(|c| c != '-'));
                let (part, rest) = long.split_at(hyphen.map_or(part.len(), |at| at + 1));
                current.push(part);
                chunks.push(rest);
            } else if current.is_empty() {
                current.push(long);
            } else {
                chunks.push(long);
            }
        }
        if current.last().is_some_and(is_blank) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    lines
}

#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
fn wordwrap(state: &mut State<'_, '_>, value: &Value, placed: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let (text, options) = (soft(state, value)?, Options { placed: &placed, named: &named });
    let (width, breaks_words) = (options.number(0, "width", 79)?, options.is_true(1, "break_long_words", true)?);
    let (newline, breaks_on_hyphens) = (options.text(2, "wrapstring", "\n")?, options.is_true(3, "break_on_hyphens", true)?);
    named.assert_all_used()?;
    if width == 0 {
        return Err(refused("invalid width 0 (must be > 0)"));
    }
    // Letters are at most as many as lines.
    state.consume_fuel(u64::try_from(text.len().saturating_mul(newline.len() + 1) / 64).unwrap_or(u64::MAX))?;
    let lines = methods::lines_of(&text, false).into_iter();
    Ok(lines.map(|line| wrapped(line, width, breaks_words, breaks_on_hyphens).join(&newline)).collect::<Vec<_>>().join(&newline))
}
