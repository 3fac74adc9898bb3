//! A text that is being written.

use super::{Limits, Logits, Sampler};
use crate::error::{Error, Result};
use crate::ort::DeviceTensor;

/// What came next in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A token.
    Token(i32),
    /// The text's end: a token that ends texts came.
    Stop,
    /// Nothing: as many tokens were written as may be.
    Full,
}

/// A text that is being written: its tokens, and what the model remembers of them.
#[derive(Debug)]
pub struct Text {
    pub(super) tokens: Vec<i32>,
    pub(super) past: Vec<DeviceTensor>,
    /// Tokens that `past` has.
    pub(super) known: usize,
    prompt: usize,
    /// Tokens with which it is full, those of the prompt among them.
    most: usize,
}

impl Text {
    /// A text behind a prompt, of at most `new_tokens` and of at most `room` tokens in all.
    pub(super) fn new(prompt: &[i32], new_tokens: usize, room: Option<usize>) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::invalid("the prompt has no tokens").with_hint("write at least a word"));
        }
        if let Some(room) = room.filter(|room| *room <= prompt.len()) {
            let error = Error::mismatch("tokens in the prompt", format!("fewer than {room}"), prompt.len());
            return Err(error.with_hint(format!("shorten it: the model's longest text has {room} tokens, the prompt's among them")));
        }
        let most = prompt.len().saturating_add(new_tokens).min(room.unwrap_or(usize::MAX));
        Ok(Self { tokens: prompt.to_vec(), past: vec![], known: 0, prompt: prompt.len(), most })
    }

    /// Whether it is as long as it may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.most
    }

    /// All tokens, those of the prompt first.
    #[must_use]
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Goes on by what a sampler chooses of the logits at its end.
    ///
    /// # Errors
    /// Logits that are no numbers.
    pub fn take(&mut self, logits: Logits, limits: &Limits, sampler: &mut Sampler) -> Result<Next> {
        let token = sampler.pick(logits, &self.tokens)?;
        if limits.stop.contains(&token) {
            return Ok(Next::Stop);
        }
        self.tokens.push(token);
        Ok(Next::Token(token))
    }

    /// The tokens that were written so far.
    #[must_use]
    pub fn written(&self) -> &[i32] {
        &self.tokens[self.prompt..]
    }

    /// The tokens that were written.
    #[must_use]
    pub fn into_written(mut self) -> Vec<i32> {
        self.tokens.split_off(self.prompt)
    }
}
