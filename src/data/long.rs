//! Long texts of which only the beginning is kept: no more of them is taken apart than that needs.
//!
//! Taking a text apart costs more than a hundred times its size in memory. The first tokens of a text depend on what follows soon after them, not on
//! what follows far behind: they are taken from a beginning of the text, and are right if a beginning twice as long has the same ones.

use super::tokens::Tokens;
use crate::error::Result;

/// Texts up to this size, in bytes, are taken apart whole.
const SHORT: usize = 1 << 16;

/// Bytes for each token that is kept: several times what a token has in most texts.
const BYTES: usize = 16;

/// Tokens before the cut that do not count, since the cut may have changed them.
const MARGIN: usize = 256;

/// Letters and digits in a row, in bytes, that may be one token however many they are: a word that is too long to be known.
const RUN: usize = 1 << 16;

/// What stays of such a row.
const KEPT: usize = 1 << 14;

/// A shorter text, and the places in it from which on bytes are missing, with how many.
pub(super) type Shorter = (String, Vec<(usize, usize)>);

/// A text in which rows of letters that are one token, however many they are, have fewer. Nothing for a text without such rows.
pub(super) fn shortened(text: &str, encode: &dyn Fn(&str) -> Result<Tokens>) -> Result<Option<Shorter>> {
    let (mut shorter, mut gaps, mut taken) = (String::new(), vec![], 0);
    for run in text.split(|letter: char| !letter.is_alphanumeric()).filter(|run| run.len() > RUN) {
        let start = run.as_ptr().addr() - text.as_ptr().addr();
        let (less, more) = (&run[..run.floor_char_boundary(KEPT)], &run[..run.floor_char_boundary(RUN)]);
        let (few, many) = (encode(less)?, encode(more)?);
        let is_one = few.ids == many.ids && few.spans.iter().filter(|span| !span.is_empty()).count() == 1;
        if is_one {
            shorter.push_str(&text[taken..start + less.len()]);
            taken = start + run.len();
            gaps.push((shorter.len(), run.len() - less.len()));
        }
    }
    Ok((!gaps.is_empty()).then(|| (shorter + &text[taken..], gaps)))
}

/// The tokens of a text, or of a beginning of it that has more than `most` tokens, the first `most` of which are those of the whole text.
pub(super) fn beginning(text: &str, most: Option<usize>, encode: &dyn Fn(&str) -> Result<Tokens>) -> Result<Tokens> {
    let Some((shorter, gaps)) = shortened(text, encode)? else { return beginning_of(text, most, encode) };
    let mut tokens = beginning_of(&shorter, most, encode)?;
    let missing = |at: usize| gaps.iter().take_while(|(place, _)| *place <= at).map(|(_, count)| count).sum::<usize>();
    for span in tokens.spans.iter_mut().filter(|span| span.start < span.end) {
        *span = span.start + missing(span.start)..span.end + missing(span.end);
    }
    Ok(tokens)
}

/// The tokens of a text, or of a beginning of it that has more than `most` tokens, the first `most` of which are those of the whole text.
fn beginning_of(text: &str, most: Option<usize>, encode: &dyn Fn(&str) -> Result<Tokens>) -> Result<Tokens> {
    let Some(most) = most else { return encode(text) };
    let enough = most.saturating_add(MARGIN);
    let mut length = enough.saturating_mul(BYTES).max(SHORT);
    let mut shorter: Option<Tokens> = None;
    while length < text.len() {
        let tokens = encode(&text[..text.floor_char_boundary(length)])?;
        let is_long = |tokens: &Tokens| tokens.ids.len() > enough;
        let same = |shorter: &Tokens| {
            is_long(shorter) && shorter.ids[..=most] == tokens.ids[..=most] && shorter.spans[..=most] == tokens.spans[..=most]
        };
        match &shorter {
            Some(shorter) if is_long(&tokens) && same(shorter) => return Ok(tokens),
            _ => shorter = Some(tokens),
        }
        length = length.saturating_mul(2);
    }
    drop(shorter);
    encode(text)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A token for each word; at the end of a text, the last one is another.
    fn words(text: &str) -> Tokens {
        let mut tokens = Tokens { ids: vec![], segments: vec![], spans: vec![], texts: vec![], are_cut: false };
        let mut at = 0;
        for word in text.split_inclusive(' ') {
            tokens.ids.push(i32::try_from(word.len()).unwrap_or(-1));
            tokens.segments.push(0);
            tokens.spans.push(at..at + word.len());
            at += word.len();
        }
        tokens
    }

    #[test]
    fn the_first_tokens_of_a_long_text_are_those_of_the_whole() -> Result<()> {
        let text = (0..400_000_usize).fold(String::new(), |text, at| text + &"x".repeat(at % 7 + 1) + " ");
        let whole = words(&text);
        let read = Cell::new(0);
        let encode = |text: &str| {
            read.set(read.get() + text.len());
            Ok(words(text))
        };
        let tokens = beginning(&text, Some(1000), &encode)?;
        assert_eq!((&tokens.ids[..1000], &tokens.spans[..1000]), (&whole.ids[..1000], &whole.spans[..1000]));
        assert!(tokens.ids.len() > 1000 && read.get() < text.len() / 4, "{} of {} bytes were read", read.get(), text.len());
        assert_eq!(beginning(&text, None, &encode)?, whole);
        assert_eq!(beginning("one two", Some(1), &encode)?, words("one two"));
        // One word without an end is taken whole.
        let text = "x".repeat(300_000);
        assert_eq!(beginning(&text, Some(10), &encode)?, words(&text));
        Ok(())
    }

    #[test]
    fn a_long_word_that_is_one_token_is_not_taken_apart() -> Result<()> {
        // Every word is unknown, whatever its length.
        let unknown = |text: &str| {
            let mut tokens = words(text);
            tokens.ids.fill(7);
            tokens
        };
        let text = format!("one {} two {} three", "x".repeat(5_000_000), "é".repeat(5_000_000));
        let read = Cell::new(0);
        let encode = |text: &str| {
            read.set(read.get() + text.len());
            Ok(unknown(text))
        };
        for most in [None, Some(3)] {
            read.set(0);
            assert_eq!(beginning(&text, most, &encode)?, unknown(&text), "{most:?}");
            assert!(read.get() < 8 * RUN, "{} bytes were read", read.get());
        }
        Ok(())
    }
}
