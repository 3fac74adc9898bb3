//! Texts as tokens.

use std::ops::Range;

use tokenizers::Encoding;

use crate::error::{Error, Result};

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The numbers of the tokens.
    pub ids: Vec<i32>,
    /// The segment of each token: 0, or 1 for the second text of a pair.
    pub segments: Vec<i32>,
    /// The bytes of the text that each token stands for; empty for tokens that were added.
    pub spans: Vec<Range<usize>>,
    /// Which of the texts each token is of; none for tokens that were added.
    pub texts: Vec<Option<usize>>,
    /// Whether there were more.
    pub are_cut: bool,
}

/// A text as tokens, and the number of the word that each is of; none for tokens that were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The tokens.
    pub tokens: Tokens,
    /// The word of each.
    pub words: Vec<Option<usize>>,
}

impl Words {
    pub(super) fn new(encoding: &Encoding) -> Result<Self> {
        let words = encoding.get_word_ids().iter().map(|word| word.and_then(|word| usize::try_from(word).ok()));
        Ok(Self { words: words.collect(), tokens: Tokens::new(encoding)? })
    }
}

impl Tokens {
    pub(super) fn new(encoding: &Encoding) -> Result<Self> {
        let numbers = |values: &[u32]| values.iter().map(|value| i32::try_from(*value)).collect::<Result<Vec<_>, _>>();
        let too_large = |_| Error::invalid("a token's number is above 2^31");
        let spans = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Self {
            ids: numbers(encoding.get_ids()).map_err(too_large)?,
            segments: numbers(encoding.get_type_ids()).map_err(too_large)?,
            spans,
            texts: encoding.get_sequence_ids(),
            are_cut: false,
        })
    }

    /// The tokens without one that ends a text, at the end.
    #[must_use]
    pub fn without_end(mut self, end: Option<i32>) -> Vec<i32> {
        if self.ids.last().is_some_and(|last| Some(*last) == end) {
            self.ids.pop();
        }
        self.ids
    }
}

impl Tokens {
    /// Cuts the text so that with the tokens that were added behind it no more than `length` are left.
    pub(super) fn keep_to(&mut self, length: Option<usize>) {
        let Some(length) = length.filter(|length| *length < self.ids.len()) else { return };
        self.are_cut = true;
        let behind = self.spans.iter().rev().take_while(|span| span.is_empty()).count().min(length);
        let cut = length - behind..self.ids.len() - behind;
        self.ids.drain(cut.clone());
        self.segments.drain(cut.clone());
        if self.texts.len() >= cut.end {
            self.texts.drain(cut.clone());
        }
        self.spans.drain(cut);
        self.ids.shrink_to_fit();
        self.segments.shrink_to_fit();
    }
}
