//! Tokens → text while they come.

use crate::data::Tokenizer;
use crate::error::Result;

/// Turns tokens into text as soon as whole characters are there.
///
/// A token may be part of a character, and how it is written may depend on the tokens before it (the first one of a text has no space in front), so
/// that the text of a token is what it adds to the text of a few tokens before it.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<i32>,
    /// From here on tokens are decoded.
    start: usize,
    /// Up to here their text has been given out.
    told: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that goes on after the tokens of a prompt.
    #[must_use]
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[i32]) -> Self {
        // A few tokens are enough to know whether a space comes.
        let tokens = prompt[prompt.len().saturating_sub(6)..].to_vec();
        Self { tokenizer, told: tokens.len(), tokens, start: 0 }
    }

    /// The text that a token adds; empty while a character is not whole.
    ///
    /// # Errors
    /// If the tokenizer does not know the token.
    pub fn push(&mut self, token: i32) -> Result<String> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.start..self.told])?;
        let now = self.tokenizer.decode(&self.tokens[self.start..])?;
        // What is not a whole character is decoded as a replacement character.
        if now.len() <= before.len() || now.ends_with('\u{fffd}') || !now.is_char_boundary(before.len()) {
            return Ok(String::new());
        }
        self.start = self.told;
        self.told = self.tokens.len();
        Ok(now[before.len()..].to_owned())
    }

    /// What is left at the end.
    ///
    /// # Errors
    /// If the tokenizer does not know a token.
    pub fn finish(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.start..self.told])?;
        let now = self.tokenizer.decode(&self.tokens[self.start..])?;
        Ok(now.get(before.len()..).unwrap_or_default().to_owned())
    }
}
