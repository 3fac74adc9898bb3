//! Numbers of rows and tokens as far as anybody has use for them. What is larger is refused before memory is asked for.

use std::num::NonZeroUsize;

use crate::error::Refusal;

/// The most rows of a batch.
const ROWS: usize = 1 << 20;
/// The most tokens of a row.
const TOKENS: usize = 1 << 24;

/// Rows of a batch.
///
/// # Errors
/// None, or more than there is use for.
pub(super) fn rows(text: &str) -> Result<NonZeroUsize, Refusal> {
    within(text, ROWS)
}

/// Tokens of a row.
///
/// # Errors
/// As [`rows`].
pub(super) fn tokens(text: &str) -> Result<NonZeroUsize, Refusal> {
    within(text, TOKENS)
}

/// Rows that are shown, or none.
///
/// # Errors
/// As [`rows`].
pub(super) fn rows_or_none(text: &str) -> Result<usize, Refusal> {
    if text.trim() == "0" { Ok(0) } else { rows(text).map(NonZeroUsize::get) }
}

fn within(text: &str, most: usize) -> Result<NonZeroUsize, Refusal> {
    let number = text.trim().parse().ok().filter(|number: &NonZeroUsize| number.get() <= most);
    number.ok_or_else(|| Refusal::new(format!("expected a whole number from 1 to {most}")))
}
