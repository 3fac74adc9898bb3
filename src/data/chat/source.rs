//! A chat template's source, written so that the engine understands what only Python's Jinja has: ends of lines of other systems, blocks that mark
//! the assistant's words, and what [`tags`](super::tags) rewrites. Sources that would exhaust the stack are refused.

use std::sync::LazyLock;

use fancy_regex::{Captures, Regex};

use super::tags::{MOST, Tags, too_long};
use crate::error::Result;

/// What stands in the text where the assistant begins to speak, and where it ends: characters for private use, which no tokenizer knows.
pub(super) const BEGINS: char = '\u{10fffc}';
pub(super) const ENDS: char = '\u{10fffd}';

/// The template as the engine takes it, and whether it marks the assistant's words itself.
pub(super) struct Source {
    pub(super) text: String,
    pub(super) is_marked: bool,
}

impl Source {
    /// # Errors
    /// A template with an expression or a chain of conditions that is too long.
    pub(super) fn of(template: &str) -> Result<Self> {
        // Jinja reads every end of a line as a line feed (`jinja2.lexer.newline_re`).
        let text = rewritten(&template.replace("\r\n", "\n").replace('\r', "\n"))?;
        let marked = with_marks(&text);
        Ok(Self { is_marked: marked != text, text: marked })
    }
}

/// `{% generation %}` as a scope of its own with marks inside: two tags, so that whitespace is cut before and behind as the one tag asked.
fn with_marks(source: &str) -> String {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is valid"));
    let tags = |found: &Captures<'_, str>| {
        let (before, behind) = (&found[1], &found[3]);
        match found.get(2) {
            None => format!("{{%{before} with %}}{{{{ '{BEGINS}' }}}}{{% with {behind}%}}"),
            Some(_) => format!("{{%{before} endwith %}}{{{{ '{ENDS}' }}}}{{% endwith {behind}%}}"),
        }
    };
    TAG.replace_all(source, tags).into_owned()
}

/// What stands in it is text.
static RAW: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\{%[-+]?\s*raw\s*[-+]?%\}").expect("the pattern is valid"));

/// The source with its tags rewritten.
fn rewritten(source: &str) -> Result<String> {
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
        out += &tag[..2];
        let mut tags = Tags::of(&tag[2..]);
        out += &tags.all()?;
        branches += usize::from(tag[2..].trim_start_matches(['-', '+']).trim_start().starts_with("elif"));
        if branches > MOST {
            return Err(too_long("branches"));
        }
        rest = tags.rest;
    }
    out += rest;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_calls_that_do_what_python_does() -> Result<()> {
        let rows = [
            ("100 % sure {# a % b #}", "100 % sure {# a % b #}"),
            ("{{ '%s!' % m.content }}", "{{ _modulo('%s!', m.content) }}"),
            (
                "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}",
                "{%- if (m['role'] == 'user') != (_modulo(loop.index0, 2) == 0) -%}",
            ),
            ("{{- '%s: %s' % (m.role|upper, n % 3)}}", "{{- _modulo('%s: %s', _own((m.role|string|upper, _modulo(n, 3))))}}"),
            ("{% if (x) % 2 %}", "{% if _modulo((x), 2) %}"),
            ("{{ a * b % c }}{{ -a % 2 }}", "{{ a * b % c }}{{ -a % 2 }}"),
            ("{{ a % b % c + d }}", "{{ _modulo(_modulo(a, b), c) + _term(d) }}"),
            ("{% set x = f(y)[0] % z.k(1)|int %}", "{% set x = _own( _modulo(f(y)[0], z.k(1)|int) ) %}"),
            ("{% for m in ms %}{{ '}}' ~ \"%}\" }}", "{% for m in _items( ms ) %}{{ _text('}}') ~ _text(\"%}\") }}"),
            (
                "{%- for a, b in x.items() if a in b recursive -%}{% for c in (d if e else f) recursive %}",
                "{%- for a, b in _items( x.items() ) if a in b recursive -%}{% for c in _items( (d if e else f) ) recursive %}",
            ),
            (
                "{{- -a * b ~ c.d(1) % 2 ~ e + 1 ~ 'x' -}}",
                "{{- _text(-a * b) ~ _text(_modulo( c.d(1), 2)) ~ _text(e) + _text(1) ~ _text('x') -}}",
            ),
            ("{{ 1e-5 % 2 ~ 1.5E+3-1 }}", "{{ _text(_modulo(1e-5, 2)) ~ _text(1.5E+3)-1 }}"),
            ("{{ f(a ~ b, c=d ~ e ** 2) }}", "{{ f(_text(a) ~ _text(b), c=_text(d) ~ _text(e ** 2)) }}"),
            ("{% raw %}{{ a % b }}{% endraw %}{{ a % b }}", "{% raw %}{{ a % b }}{% endraw %}{{ _modulo(a, b) }}"),
            ("{{ {'a': {'b': 1}} }}", "{{ _own({'a': _own({'b': 1})}) }}"),
            (
                "{% set ns.x = [a[1:], (b)] + c|d(e) ~ f + 'g' - 1 %}",
                "{% set ns.x = _own( _own([a[1:], (b)]) + _text(_term(c|d(e))) ~ _text(f) + 'g' - 1 ) %}",
            ),
            ("{% set (a, b) = c, d %}{% for (k, v) in m %}", "{% set (a, b) = _own( c, d ) %}{% for (k, v) in _items( m ) %}"),
            ("{% if a is in [1] or a in [1] and b == +1 %}", "{% if a is in [1] or a in _own([1]) and b == +1 %}"),
            ("{% set x %}{% macro f(a=[1]) %}{% call(x) f([2]) %}", "{% set x %}{% macro f(a=_own([1])) %}{% call(x) f(_own([2])) %}"),
            ("{{ 'a' if i is divisibleby(2) else 'b' }}", "{{ 'a' if i is divisibleby(2) else 'b' }}"),
        ];
        for (source, expected) in rows {
            assert_eq!(rewritten(source)?, expected);
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
            assert!(rewritten(&source).is_err(), "{}", &source[..20]);
        }
    }
}
