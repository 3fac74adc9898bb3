//! The inside of a template's tags, rewritten where Python's Jinja does otherwise than the engine: `a % b` is `_modulo(a, b)`, which formats strings;
//! what `~` joins and filters of text read is made text by `_text`; what a loop goes over is made a list by `_items`. Lists, maps and tuples that stand there
//! are weighed by `_own`, and what `+` puts behind another by `_term`: the engine counts steps, and one step may go through values without end.

use crate::error::{Error, Result};

/// The functions that tags call.
pub(super) const MODULO: &str = "_modulo";
pub(super) const TEXT: &str = "_text";
pub(super) const ITEMS: &str = "_items";
pub(super) const OWN: &str = "_own";
pub(super) const TERM: &str = "_term";

/// Words and signs that one tag may have, and branches that a condition may have: the engine's compiler calls itself for each.
pub(super) const MOST: usize = 4096;

pub(super) fn too_long(what: &str) -> Error {
    Error::invalid(format!("a chat template with more than {MOST} {what} in a row"))
        .with_hint("is this the chat template of the tokenizer? name another folder with `tokenizer`")
}

/// Words before which no operand ends.
const KEYWORDS: [&str; 12] = ["if", "elif", "else", "not", "and", "or", "in", "is", "for", "set", "call", "recursive"];

/// Brackets in brackets, as the engine's own parser bounds them.
const DEPTH: usize = 150;

/// Filters that read a value as text.
const OF_TEXT: [&str; 9] = ["trim", "lower", "upper", "title", "capitalize", "replace", "indent", "escape", "e"];

/// The inside of a tag, word by word.
pub(super) struct Tags<'a> {
    pub(super) rest: &'a str,
    tokens: usize,
    place: Place,
    /// The words before, the last one first: whether `in` belongs to `is in`.
    words: [&'a str; 3],
}

/// Where a `{% for .. in .. if .. %}` or a `{% set .. = .. %}` is being read; other tags are behind it from the beginning.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Names that get values, in brackets perhaps.
    Variables,
    /// The same of `set`.
    Names,
    Items,
    /// What `set` gives.
    Value,
    Behind,
}

/// Where the last operand stands in what was written; none behind an operator.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Operator,
    /// Behind an operator that binds as `%` does or more strongly: what is left of a `%` behind it is more than the operand. The product starts there.
    Factor {
        start: usize,
    },
    /// An operand, or the product whose last factor it is.
    Operand {
        start: usize,
        is_factor: bool,
    },
    /// Behind what `~` joined.
    Text,
}

impl Last {
    /// Where the product starts that goes on here.
    fn product(self, here: usize) -> usize {
        match self {
            Self::Factor { start } | Self::Operand { start, .. } => start,
            Self::Operator | Self::Text => here,
        }
    }
}

impl<'a> Tags<'a> {
    /// The inside of a tag and all that follows it.
    pub(super) fn of(rest: &'a str) -> Self {
        Self { rest, tokens: 0, place: Place::Behind, words: [""; 3] }
    }

    /// The tag, rewritten, up to the sign that ends it.
    ///
    /// # Errors
    /// A tag that is too long or too deep.
    pub(super) fn all(&mut self) -> Result<String> {
        let sign = self.rest.len() - self.rest.trim_start_matches(['-', '+']).len();
        let (sign, rest) = self.rest.split_at(sign.min(1));
        self.rest = rest;
        self.place = match word_of(rest.trim_start()) {
            "for" => Place::Variables,
            "set" => Place::Names,
            _ => Place::Behind,
        };
        Ok(sign.to_owned() + &self.expression(None, 0)?)
    }

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
            if closing.is_none() {
                self.closes_items(&mut out, token);
            }
            if closing == Some(first) {
                self.rest = &self.rest[token.len()..];
                out += token;
                return Ok(out);
            }
            if closing.is_none() && self.ends_tag() {
                return Ok(out);
            }
            last = match first {
                '+' if matches!(last, Last::Operand { .. } | Last::Text) => {
                    self.rest = &self.rest[1..];
                    self.added(&mut out, depth)?
                }
                '%' => {
                    self.rest = &self.rest[1..];
                    self.modulo(&mut out, last, depth)?
                }
                '~' => {
                    self.rest = &self.rest[1..];
                    self.joined(&mut out, last, depth)?
                }
                _ => self.other(&mut out, token, last, depth)?,
            };
            if closing.is_none() {
                self.opens_items(&mut out, token);
            }
        }
    }

    /// Before a token: what a loop goes over stands in a call, which makes a list of it, and what `set` gives in one that makes a tuple of several.
    fn closes_items(&mut self, out: &mut String, token: &str) {
        let ends = match self.place {
            Place::Items => ["if", "recursive"].contains(&token) || self.ends_tag(),
            Place::Value => self.ends_tag(),
            _ => false,
        };
        if ends {
            *out += ") ";
            self.place = Place::Behind;
        }
    }

    /// Behind a token.
    fn opens_items(&mut self, out: &mut String, token: &str) {
        let (call, place) = match self.place {
            Place::Variables if token == "in" => (ITEMS, Place::Items),
            Place::Names if token == "=" => (OWN, Place::Value),
            _ => return,
        };
        for part in [" ", call, "("] {
            *out += part;
        }
        self.place = place;
    }

    /// Whether the tag ends here.
    fn ends_tag(&self) -> bool {
        let behind = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
        behind.starts_with("%}") || behind.starts_with("}}")
    }

    /// `%` and what stands right of it.
    fn modulo(&mut self, out: &mut String, last: Last, depth: usize) -> Result<Last> {
        let Last::Operand { start, is_factor: false } = last else {
            let start = last.product(out.len());
            *out += "%";
            return Ok(Last::Factor { start });
        };
        let right = self.operand(depth)?;
        let left = out.split_off(start);
        for part in [MODULO, "(", left.trim_end(), ", ", right.trim(), ")"] {
            *out += part;
        }
        Ok(Last::Operand { start, is_factor: false })
    }

    /// `+` and the product right of it, which is weighed unless it is a number or a text.
    fn added(&mut self, out: &mut String, depth: usize) -> Result<Last> {
        *out += "+";
        let right = self.product(depth)?;
        let (space, term) = right.split_at(right.len() - right.trim_start().len());
        *out += space;
        let start = out.len();
        let is_plain =
            term.starts_with(|first: char| first.is_ascii_digit() || "\"'".contains(first)) && !term.contains(['[', '(', '|', '*']);
        let parts = if is_plain || term.is_empty() { ["", "", term, ""] } else { [TERM, "(", term, ")"] };
        for part in parts {
            *out += part;
        }
        Ok(if term.is_empty() { Last::Operator } else { Last::Operand { start, is_factor: false } })
    }

    /// Whether a bracket begins a list, a map or a tuple, or what is in brackets for its own sake; names that get values may stand in some, too.
    fn begins_value(&self, last: Last) -> bool {
        let is_operand = matches!(last, Last::Operand { .. } | Last::Text);
        let is_test = matches!(self.words, ["in", "is", _] | ["in", "not", "is"]);
        !is_operand && !is_test && !matches!(self.place, Place::Variables | Place::Names) && !["call", "macro"].contains(&self.words[0])
    }

    /// `~` and the product right of it: both sides become text as Python writes it.
    fn joined(&mut self, out: &mut String, last: Last, depth: usize) -> Result<Last> {
        if matches!(last, Last::Operator | Last::Factor { .. }) {
            *out += "~";
            return Ok(Last::Operator);
        }
        let right = self.product(depth)?;
        if last != Last::Text {
            let left = out.split_off(last.product(out.len()));
            for part in [TEXT, "(", left.trim_end(), ")"] {
                *out += part;
            }
            *out += " ";
        }
        for part in ["~ ", TEXT, "(", right.trim(), ")"] {
            *out += part;
        }
        Ok(Last::Text)
    }

    /// Operands with signs between them that bind more strongly than `~`.
    fn product(&mut self, depth: usize) -> Result<String> {
        let mut out = self.operand(depth)?;
        loop {
            let before = self.rest;
            let (space, token) = self.token();
            let is_sign = token.starts_with(['*', '/', '%']) && !self.ends_tag();
            if !is_sign {
                self.rest = before;
                return Ok(out);
            }
            self.rest = &self.rest[1..];
            if token == "%" {
                self.modulo(&mut out, Last::Operand { start: 0, is_factor: false }, depth)?;
                continue;
            }
            out += space;
            out += token;
            if self.rest.starts_with(token) {
                out += token;
                self.rest = &self.rest[1..];
            }
            out += &self.operand(depth)?;
        }
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
    fn other(&mut self, out: &mut String, token: &'a str, last: Last, depth: usize) -> Result<Last> {
        let first = token.chars().next().unwrap_or_default();
        let (start, is_operand) = (out.len(), matches!(last, Last::Operand { .. } | Last::Text));
        let is_factor = matches!(last, Last::Factor { .. });
        let product = last.product(start);
        let begins = Last::Operand { start: if is_factor { product } else { start }, is_factor };
        let begins_value = "([{".contains(first) && self.begins_value(last);
        *out += token;
        self.rest = &self.rest[token.len()..];
        self.words = [token, self.words[0], self.words[1]];
        Ok(match first {
            '(' | '[' | '{' => {
                let closing = match first {
                    '(' => ')',
                    '[' => ']',
                    _ => '}',
                };
                let inner = self.expression(Some(closing), depth + 1)?;
                let is_value = begins_value && (first != '(' || has_comma(&inner));
                if is_value {
                    out.insert(start, '(');
                    out.insert_str(start, OWN);
                }
                *out += &inner;
                *out += if is_value { ")" } else { "" };
                self.words = [""; 3];
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
                *out += if OF_TEXT.contains(&name) { "string|" } else { "" };
                *out += name;
                self.rest = &self.rest[name.len()..];
                last
            }
            '*' | '/' => Last::Factor { start: product },
            '-' | '+' if !is_operand => Last::Factor { start: product },
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
                if first.is_ascii_digit() {
                    number(rest)
                } else {
                    word(rest)
                }
            }
            _ => first.len_utf8(),
        };
        (space, &rest[..length])
    }
}

/// Whether the inside of brackets, with the one that closes them, is several values: a tuple.
fn has_comma(inner: &str) -> bool {
    let (mut rest, mut depth) = (inner, 0_usize);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => quoted(rest, first),
            _ => first.len_utf8(),
        };
        match first {
            ',' if depth == 0 => return true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        rest = &rest[length..];
    }
    false
}

/// The name that a text begins with.
fn word_of(text: &str) -> &str {
    &text[..word(text)]
}

/// The length of a name.
fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The length of a number, with its exponent's sign.
fn number(text: &str) -> usize {
    let length = text.find(|c: char| !c.is_alphanumeric() && !"_.".contains(c)).unwrap_or(text.len());
    let (digits, behind) = text.split_at(length);
    let has_exponent = digits.ends_with(['e', 'E']) && !digits.starts_with("0x") && behind.starts_with(['-', '+']);
    if has_exponent { length + 1 + word(&behind[1..]) } else { length }
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
