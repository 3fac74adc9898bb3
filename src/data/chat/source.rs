//! A chat template's source, written so that the engine understands what only Python's Jinja has: blocks that mark the assistant's words, and `%`
//! between strings. Sources that would exhaust the stack are refused.

use std::sync::LazyLock;

use fancy_regex::{Captures, Regex};

use crate::error::{Error, Result};

/// What stands in the text where the assistant begins to speak, and where it ends: characters for private use, which no tokenizer knows.
pub(super) const BEGINS: char = '\u{10fffc}';
pub(super) const ENDS: char = '\u{10fffd}';

/// The function that `%` is written as.
pub(super) const MODULO: &str = "_modulo";

/// Words and signs that one tag may have, and branches that a condition may have: the engine's compiler calls itself for each.
const MOST: usize = 4096;

/// The template as the engine takes it, and whether it marks the assistant's words itself.
pub(super) struct Source {
    pub(super) text: String,
    pub(super) is_marked: bool,
}

impl Source {
    /// # Errors
    /// A template with an expression or a chain of conditions that is too long.
    pub(super) fn of(template: &str) -> Result<Self> {
        let text = with_modulo(template)?;
        let marked = with_marks(&text);
        Ok(Self { is_marked: marked != text, text: marked })
    }
}

/// `{% generation %}` as a condition that holds, with marks inside: two tags, so that whitespace is cut before and behind as the one tag asked.
fn with_marks(source: &str) -> String {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is valid"));
    let tags = |found: &Captures<'_, str>| {
        let (before, behind) = (&found[1], &found[3]);
        match found.get(2) {
            None => format!("{{%{before} if true %}}{{{{ '{BEGINS}' }}}}{{% if true {behind}%}}"),
            Some(_) => format!("{{%{before} endif %}}{{{{ '{ENDS}' }}}}{{% endif {behind}%}}"),
        }
    };
    TAG.replace_all(source, tags).into_owned()
}

/// What stands in it is text.
static RAW: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\{%[-+]?\s*raw\s*[-+]?%\}").expect("the pattern is valid"));

/// The source with `a % b` in its tags as `_modulo(a, b)`, which formats strings as Python does.
fn with_modulo(source: &str) -> Result<String> {
    let (mut out, mut rest, mut branches) = (String::with_capacity(source.len()), source, 0);
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out += before;
        if tag.starts_with("{#") {
            let end = tag.find("#}").map_or(tag.len(), |end| end + 2);
            out += &tag[..end];
            rest = &tag[end..];
            continue;
        }
        if let Some(raw) = RAW.find(tag).ok().flatten().filter(|raw| raw.start() == 0) {
            let end = raw.end() + tag[raw.end()..].find("endraw").unwrap_or(tag.len() - raw.end());
            out += &tag[..end];
            rest = &tag[end..];
            continue;
        }
        let mut tags = Tags { rest: &tag[2..], tokens: 0 };
        out += &tag[..2];
        out += &tags.expression(None, 0)?;
        branches += usize::from(tag[2..].trim_start_matches(['-', '+']).trim_start().starts_with("elif"));
        if branches > MOST {
            return Err(too_long("branches"));
        }
        rest = tags.rest;
    }
    out += rest;
    Ok(out)
}

fn too_long(what: &str) -> Error {
    Error::invalid(format!("a chat template with more than {MOST} {what} in a row"))
        .with_hint("is this the chat template of the tokenizer? name another folder with `tokenizer`")
}

/// Words before which no operand ends.
const KEYWORDS: [&str; 12] = ["if", "elif", "else", "not", "and", "or", "in", "is", "for", "set", "call", "recursive"];

/// Brackets in brackets, as the engine's own parser bounds them.
const DEPTH: usize = 150;

/// The inside of a tag, word by word.
struct Tags<'a> {
    rest: &'a str,
    tokens: usize,
}

/// Where the last operand stands in what was written; none behind an operator.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Operator,
    /// Behind an operator that binds as `%` does or more strongly: what is left of a `%` behind it is more than the operand.
    Factor,
    Operand {
        start: usize,
        is_factor: bool,
    },
}

impl<'a> Tags<'a> {
    /// Everything up to a closing bracket, which is taken too, or to the end of the tag, which is not.
    fn expression(&mut self, closing: Option<char>, depth: usize) -> Result<String> {
        let (mut out, mut last) = (String::new(), Last::Operator);
        loop {
            let (space, token) = self.token();
            out += space;
            self.tokens += usize::from(!token.is_empty());
            if self.tokens > MOST || depth > DEPTH {
                return Err(too_long("words or brackets"));
            }
            let Some(first) = token.chars().next() else { return Ok(out) };
            if closing == Some(first) {
                self.rest = &self.rest[token.len()..];
                out += token;
                return Ok(out);
            }
            if closing.is_none() && self.ends_tag() {
                return Ok(out);
            }
            if first == '%' {
                self.rest = &self.rest[1..];
                last = self.modulo(&mut out, last, depth)?;
                continue;
            }
            last = self.other(&mut out, token, last, depth)?;
        }
    }

    /// Whether the tag ends here.
    fn ends_tag(&self) -> bool {
        let behind = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
        behind.starts_with("%}") || behind.starts_with("}}")
    }

    /// `%` and what stands right of it.
    fn modulo(&mut self, out: &mut String, last: Last, depth: usize) -> Result<Last> {
        let Last::Operand { start, is_factor: false } = last else {
            *out += "%";
            return Ok(Last::Factor);
        };
        let right = self.operand(depth)?;
        let left = out.split_off(start);
        for part in [MODULO, "(", left.trim_end(), ", ", right.trim(), ")"] {
            *out += part;
        }
        Ok(Last::Operand { start, is_factor: false })
    }

    /// One operand with what is called or looked up on it.
    fn operand(&mut self, depth: usize) -> Result<String> {
        let (mut out, mut last) = (String::new(), Last::Operator);
        loop {
            let before = self.rest;
            let (space, token) = self.token();
            let goes_on = match last {
                Last::Operand { .. } => token.starts_with(['.', '[', '(', '|']),
                _ => !token.is_empty(),
            };
            if !goes_on || self.ends_tag() && token.starts_with(['-', '+', '%', '}']) {
                self.rest = before;
                return Ok(out);
            }
            self.tokens += 1;
            out += space;
            last = self.other(&mut out, token, last, depth)?;
        }
    }

    /// Any token but `%`: writes it and says what stands there now.
    fn other(&mut self, out: &mut String, token: &str, last: Last, depth: usize) -> Result<Last> {
        let first = token.chars().next().unwrap_or_default();
        let (start, is_operand) = (out.len(), matches!(last, Last::Operand { .. }));
        let begins = Last::Operand { start, is_factor: last == Last::Factor };
        *out += token;
        self.rest = &self.rest[token.len()..];
        Ok(match first {
            '(' | '[' | '{' => {
                let closing = match first {
                    '(' => ')',
                    '[' => ']',
                    _ => '}',
                };
                *out += &self.expression(Some(closing), depth + 1)?;
                if is_operand && first != '{' { last } else { begins }
            }
            '.' if is_operand => {
                let (space, name) = self.token();
                *out += space;
                *out += name;
                self.rest = &self.rest[name.len()..];
                last
            }
            '|' => {
                let (space, name) = self.token();
                *out += space;
                *out += name;
                self.rest = &self.rest[name.len()..];
                last
            }
            '*' | '/' => Last::Factor,
            '-' | '+' if !is_operand => Last::Factor,
            _ if KEYWORDS.contains(&token) => Last::Operator,
            '"' | '\'' => {
                if is_operand {
                    last
                } else {
                    begins
                }
            }
            _ if first.is_alphanumeric() || first == '_' => begins,
            _ => Last::Operator,
        })
    }

    /// The whitespace before the next token, which is taken, and the token, which is not.
    fn token(&mut self) -> (&'a str, &'a str) {
        let trimmed = self.rest.trim_start();
        let (space, rest) = self.rest.split_at(self.rest.len() - trimmed.len());
        self.rest = rest;
        let Some(first) = rest.chars().next() else { return (space, "") };
        let length = match first {
            '"' | '\'' => quoted(rest, first),
            _ if first.is_alphanumeric() || first == '_' => {
                let is_number = first.is_ascii_digit();
                let inside = |c: char| c.is_alphanumeric() || c == '_' || (is_number && c == '.');
                rest.find(|c| !inside(c)).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        (space, &rest[..length])
    }
}

/// The length of a string with its quotation marks.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == mark => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_in_tags_become_calls_that_python_would_make() -> Result<()> {
        let rows = [
            ("100 % sure {# a % b #}", "100 % sure {# a % b #}"),
            ("{{ '%s!' % m.content }}", "{{ _modulo('%s!', m.content) }}"),
            (
                "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}",
                "{%- if (m['role'] == 'user') != (_modulo(loop.index0, 2) == 0) -%}",
            ),
            ("{{'%s: %s' % (m.role|upper, n % 3)}}", "{{_modulo('%s: %s', (m.role|upper, _modulo(n, 3)))}}"),
            ("{% if (x) % 2 %}", "{% if _modulo((x), 2) %}"),
            ("{{ a * b % c }}{{ -a % 2 }}", "{{ a * b % c }}{{ -a % 2 }}"),
            ("{{ a % b % c + d }}", "{{ _modulo(_modulo(a, b), c) + d }}"),
            ("{% set x = f(y)[0] % z.k(1)|int %}", "{% set x = _modulo(f(y)[0], z.k(1)|int) %}"),
            ("{% for m in ms %}{{ '}}' ~ \"%}\" }}", "{% for m in ms %}{{ '}}' ~ \"%}\" }}"),
            ("{% raw %}{{ a % b }}{% endraw %}{{ a % b }}", "{% raw %}{{ a % b }}{% endraw %}{{ _modulo(a, b) }}"),
            ("{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}} }}"),
            ("{{ 'a' if i is divisibleby(2) else 'b' }}", "{{ 'a' if i is divisibleby(2) else 'b' }}"),
        ];
        for (source, expected) in rows {
            assert_eq!(with_modulo(source)?, expected);
        }
        Ok(())
    }

    #[test]
    fn expressions_that_would_exhaust_the_stack_are_refused() {
        let rows = [
            "{{ ".to_owned() + &"not ".repeat(9999) + "1 }}",
            "{{ x".to_owned() + &"|a".repeat(9999) + " }}",
            "{% if a %}".to_owned() + &"{% elif a %}".repeat(9999),
            "{{ ".to_owned() + &"(".repeat(9999),
        ];
        for source in rows {
            assert!(with_modulo(&source).is_err(), "{}", &source[..20]);
        }
    }
}
