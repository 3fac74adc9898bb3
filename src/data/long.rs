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

/// The tokens of a text, or of a beginning of it that has more than `most` tokens, the first `most` of which are those of the whole text.
pub(super) fn beginning(text: &str, most: Option<usize>, encode: &dyn Fn(&str) -> Result<Tokens>) -> Result<Tokens> {
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
        let mut tokens = Tokens { ids: vec![], segments: vec![], spans: vec![], texts: vec![] };
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
}
