//! Templates of hard prompts: a row as the text that a language model completes with one word.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Map, Value};

use super::example::{Example, IGNORED, Labels};
use super::tokenizer::{Specials, Tokenizer};
use super::tokens::Tokens;
use crate::adapter::config::Task;
use crate::error::{Error, Result};
use crate::files::json::Names;
use crate::train::verbalizer::{HardPrompt, Label};

/// The ways to write the place of the word.
const PLACES: [&str; 2] = ["[MASK]", "<mask>"];

const EXAMPLE: &str = "for example \"{text} It was [MASK].\"";

/// A template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A column of the row.
    Column(String),
    /// The place of the word.
    Word,
}

/// A row, written into a template.
struct Rendered {
    text: String,
    /// Where columns stand in the text.
    columns: Vec<Range<usize>>,
    /// Where the word's place begins.
    word: usize,
}

impl Template {
    fn parse(source: &str) -> Result<Self> {
        let wrong = |what: &str| Error::invalid(format!("the template {source:?} {what}")).with_hint(EXAMPLE);
        let (mut pieces, mut text, mut rest) = (vec![], String::new(), source);
        while let Some(next) = rest.chars().next() {
            let place = PLACES.iter().find_map(|place| rest.strip_prefix(place));
            let piece = match (place, next) {
                (Some(after), _) => {
                    rest = after;
                    Piece::Word
                }
                (None, '{') => {
                    let (column, after) = rest[1..].split_once('}').ok_or_else(|| wrong("has a { without its }"))?;
                    rest = after;
                    Piece::Column(column.trim().to_owned())
                }
                (None, _) => {
                    text.push(next);
                    rest = &rest[next.len_utf8()..];
                    continue;
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        match pieces.iter().filter(|piece| **piece == Piece::Word).count() {
            0 => return Err(wrong("has no [MASK], the place of the word that the model is asked for")),
            1 => {}
            several => return Err(wrong(&format!("has {several} places for the word; one is asked for"))),
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::Column(_))) {
            return Err(wrong("shows nothing of a row"));
        }
        Ok(Self(pieces))
    }

    /// Checks that the model can see all of the template when it is asked for the word.
    fn check(&self, task: Task) -> Result<()> {
        let behind = self.0.iter().skip_while(|piece| **piece != Piece::Word).skip(1);
        let is_empty = |piece: &Piece| matches!(piece, Piece::Text(text) if text.trim().is_empty());
        match task {
            Task::MaskedLm => Ok(()),
            Task::CausalLm if behind.clone().all(is_empty) => Ok(()),
            Task::CausalLm => Err(Error::invalid("the template has text behind [MASK], which a causal language model cannot see")
                .with_hint("end the template with [MASK]: for example \"{text} All in all, it was [MASK]\"")),
            other => Err(Error::unsupported(format!("a template for {other}"), "a language model is asked for a word, masked or next")
                .with_hint("`task masked-lm` or `task causal-lm`, where the graph has logits of tokens")),
        }
    }

    /// The text that stands right before the word, and the space between them.
    fn before_word(&self) -> (&str, &str) {
        let at = self.0.iter().position(|piece| *piece == Piece::Word).unwrap_or(0);
        match at.checked_sub(1).map(|before| &self.0[before]) {
            Some(Piece::Text(text)) => text.split_at(text.trim_end().len()),
            _ => ("", ""),
        }
    }

    /// Writes a row into the template, of each column as many bytes as `kept` tells.
    fn render(&self, fields: &Map<String, Value>, word: &str, kept: &dyn Fn(&str) -> Result<usize>) -> Result<Rendered> {
        let mut rendered = Rendered { text: String::new(), columns: vec![], word: 0 };
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => rendered.text += text,
                Piece::Word => {
                    rendered.word = rendered.text.len();
                    rendered.text += word;
                }
                Piece::Column(column) => {
                    let value = fields.get(column).ok_or_else(|| {
                        let known = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                        Error::mismatch("columns", format!("{column}, which the template shows"), known)
                    })?;
                    let start = rendered.text.len();
                    let text = value.as_str().ok_or_else(|| Error::mismatch(column.clone(), "text", value))?.trim();
                    rendered.text += &text[..kept(text)?];
                    rendered.columns.push(start..rendered.text.len());
                }
            }
        }
        Ok(rendered)
    }
}

/// The columns that the template of a hard prompt shows.
///
/// # Errors
/// As [`hard_prompt`], of the template.
pub(super) fn columns_of(prompt: &HardPrompt) -> Result<Vec<String>> {
    let pieces = Template::parse(&prompt.template)?.0.into_iter();
    Ok(pieces.filter_map(|piece| if let Piece::Column(column) = piece { Some(column) } else { None }).collect())
}

/// A hard prompt for a tokenizer: a template, and the words of each label as JSON, `{"good": ["great", "fine"], "bad": ["awful"]}`.
///
/// # Errors
/// A template without a place for the word, or one that the model cannot see; a verbalizer that is not of this form; a word that is not one token.
pub fn hard_prompt(template: &str, verbalizer: &str, tokenizer: &Tokenizer, task: Task) -> Result<HardPrompt> {
    let parsed = Template::parse(template)?;
    parsed.check(task)?;
    let mut taken = BTreeSet::new();
    let mut labels = vec![];
    for (name, words) in words_of_labels(verbalizer)? {
        let tokens = words.iter().map(|word| token_of(word, &parsed, tokenizer)).collect::<Result<Vec<i64>>>()?;
        if let Some((word, _)) = words.iter().zip(&tokens).find(|(_, token)| !taken.insert(**token)) {
            return Err(Error::invalid(format!("the label word {word:?} is there twice")).with_hint("each word stands for one label"));
        }
        labels.push(Label { name, words, tokens });
    }
    Ok(HardPrompt { template: template.to_owned(), labels })
}

/// Labels and their words, in their order.
fn words_of_labels(verbalizer: &str) -> Result<Vec<(String, Vec<String>)>> {
    let hint = "for example '{\"positive\": [\"great\", \"good\"], \"negative\": [\"bad\"]}'";
    let Names(labels) = serde_json::from_str(verbalizer).map_err(|error| Error::format("a verbalizer", error).with_hint(hint))?;
    let words = |value: &Value| match value {
        Value::String(word) => Some(vec![word.clone()]),
        Value::Array(words) => words.iter().map(|word| word.as_str().map(ToOwned::to_owned)).collect(),
        _ => None,
    };
    let read = |(name, value): (String, Value)| match words(&value).filter(|words| !words.is_empty()) {
        Some(words) => Ok((name, words)),
        None => Err(Error::mismatch(format!("words of the label {name:?}"), "one or more words", value).with_hint(hint)),
    };
    let labels = labels.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    if labels.len() < 2 {
        return Err(Error::mismatch("labels of the verbalizer", "at least 2", labels.len()).with_hint(hint));
    }
    Ok(labels)
}

/// The token of a word where it stands in the template: many tokenizers have others for words behind a space.
fn token_of(word: &str, template: &Template, tokenizer: &Tokenizer) -> Result<i64> {
    let (before, space) = template.before_word();
    let ids = |text: &str| Ok::<_, Error>(tokenizer.encode(text, Specials::AsWritten)?.ids);
    let (context, whole) = (ids(before)?, ids(&format!("{before}{space}{word}"))?);
    let tokens = match whole.strip_prefix(context.as_slice()) {
        Some(own) => own.to_vec(),
        None => ids(word)?,
    };
    let token = match tokens[..] {
        [token] if Some(token) == tokenizer.unknown() => {
            Err(Error::invalid(format!("the tokenizer does not know the label word {word:?}")))
        }
        [token] => Ok(i64::from(token)),
        _ => {
            let pieces: Vec<String> = tokens.iter().filter_map(|&token| tokenizer.token(token)).collect();
            Err(Error::mismatch(format!("tokens of the label word {word:?}"), 1, format!("{} ({})", tokens.len(), pieces.join(" "))))
        }
    };
    token.map_err(|error| error.with_hint("choose a common word that is one token; a label may have several words, which are averaged"))
}

/// Tokens of a column behind those that can be kept, so that where it is cut changes none of these.
const BEHIND: usize = 64;

/// A row in a template: a label's number where the word is, nothing to learn elsewhere. Of what is too long, columns are cut, not the template.
///
/// # Errors
/// A template that does not fit a row or the length.
pub(super) fn from_template(
    prompt: &HardPrompt,
    fields: &Map<String, Value>,
    class: i32,
    tokenizer: &Tokenizer,
    task: Task,
    max_length: Option<usize>,
) -> Result<Example> {
    let template = Template::parse(&prompt.template)?;
    template.check(task)?;
    let mask = if task == Task::MaskedLm { Some(tokenizer.mask().ok_or_else(no_mask)?) } else { None };
    let word = mask.and_then(|mask| tokenizer.token(mask)).unwrap_or_default();
    // Of a column that will be cut anyway, a little more than can be left.
    let kept = |text: &str| {
        let Some(most) = max_length else { return Ok(text.len()) };
        let tokens = tokenizer.encode_beginning(text, Specials::AsWritten, Some(most))?;
        Ok(tokens.spans.get(most + BEHIND).map_or(text.len(), |span| text.floor_char_boundary(span.end)))
    };
    let Rendered { mut text, columns, word } = template.render(fields, &word, &kept)?;
    if mask.is_none() {
        text.truncate(text[..word].trim_end().len());
    }
    let mut tokens = tokenizer.encode(&text, Specials::Added)?;
    let room = max_length.map(|length| length - usize::from(mask.is_none()).min(length));
    shorten(&mut tokens, &columns, room)?;
    let at = if let Some(mask) = mask {
        let is_word = |(id, span): (&i32, &Range<usize>)| *id == mask && span.start <= word && word < span.end;
        tokens.ids.iter().zip(&tokens.spans).position(is_word).ok_or_else(no_mask)?
    } else {
        // What the tokenizer adds behind a text would stand between it and the word.
        while tokens.ids.len() > 1 && tokens.spans.last().is_some_and(Range::is_empty) {
            tokens.ids.pop();
            tokens.spans.pop();
        }
        tokens.segments.clear();
        tokens.ids.push(tokenizer.pad());
        tokens.ids.len() - 1
    };
    let mut labels = vec![IGNORED; tokens.ids.len()];
    labels[at] = class;
    Ok(Example { labels: Labels::Tokens(labels), ..tokens.into() })
}

fn no_mask() -> Error {
    Error::invalid("the tokenizer has no mask token").with_hint("a masked language model comes with one: is `tokenizer` that of the model?")
}

/// Takes tokens away from the ends of columns, from the longest first, until no more than `length` are left.
fn shorten(tokens: &mut Tokens, columns: &[Range<usize>], length: Option<usize>) -> Result<()> {
    let Some(length) = length else { return Ok(()) };
    tokens.are_cut = tokens.ids.len() > length;
    while tokens.ids.len() > length {
        let of_column = |column: &Range<usize>| {
            let inside = |span: &Range<usize>| !span.is_empty() && column.start <= span.start && span.end <= column.end;
            let own: Vec<usize> = (0..tokens.ids.len()).filter(|&at| inside(&tokens.spans[at])).collect();
            (own.len(), own.last().copied())
        };
        let longest = columns.iter().map(of_column).max_by_key(|(count, _)| *count);
        let Some((_, Some(last))) = longest else {
            let error = Error::mismatch("tokens of the template alone", format!("at most {length}"), tokens.ids.len());
            return Err(error.with_hint("write a shorter template, or raise `max_length`"));
        };
        tokens.ids.remove(last);
        tokens.spans.remove(last);
        tokens.segments.remove(last);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_taken_apart() {
        let text = |text: &str| Piece::Text(text.into());
        let column = || Piece::Column("text".into());
        let rows = [
            ("{text} It was [MASK].", vec![column(), text(" It was "), Piece::Word, text(".")]),
            ("<mask>: {text}", vec![Piece::Word, text(": "), column()]),
        ];
        for (source, pieces) in rows {
            assert_eq!(Template::parse(source).map(|template| template.0).ok(), Some(pieces), "{source}");
        }
        let rows = [
            ("{text} It was good.", "has no [MASK]"),
            ("{text} [MASK] [MASK]", "has 2 places"),
            ("It was [MASK].", "shows nothing of a row"),
            ("{text It was [MASK].", "has a { without its }"),
        ];
        for (source, expected) in rows {
            let error = Template::parse(source).expect_err(source);
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn a_causal_model_must_have_seen_all_of_the_template() -> Result<()> {
        let (ends, goes_on) = (Template::parse("{text} It was [MASK]")?, Template::parse("{text} It was [MASK].")?);
        assert!(ends.check(Task::CausalLm).is_ok() && goes_on.check(Task::MaskedLm).is_ok());
        assert!(goes_on.check(Task::CausalLm).is_err() && ends.check(Task::SeqCls).is_err());
        assert_eq!(ends.before_word(), (" It was", " "));
        Ok(())
    }

    #[test]
    fn what_is_too_long_is_cut_out_of_columns() -> Result<()> {
        let tokens = || Tokens {
            ids: (0..6).collect(),
            segments: vec![0; 6],
            spans: vec![0..0, 0..2, 2..4, 4..6, 6..8, 0..0],
            texts: vec![],
            are_cut: false,
        };
        let mut cut = tokens();
        shorten(&mut cut, &[0..2, 2..4], Some(5))?;
        assert_eq!(cut.ids, [0, 1, 3, 4, 5]);
        assert!(shorten(&mut tokens(), &[0..2, 2..4], Some(3)).is_err());
        Ok(())
    }

    #[test]
    fn verbalizers_are_read_in_their_order() {
        let labels = words_of_labels(r#"{"pos": ["great", "good"], "neg": "bad"}"#).expect("a verbalizer");
        assert_eq!(labels, [("pos".to_owned(), vec!["great".to_owned(), "good".to_owned()]), ("neg".to_owned(), vec!["bad".to_owned()])]);
        for wrong in ["", "[]", r#"{"pos": []}"#, r#"{"pos": 1, "neg": "bad"}"#, r#"{"pos": "good"}"#] {
            assert!(words_of_labels(wrong).is_err_and(|error| error.hint().is_some()), "{wrong}");
        }
    }
}
