//! What a user asks of a method: plain values, in PEFT's words, without the layout of any file.
//!
//! Defaults are PEFT's (`peft/tuners/*/config.py`, 0.21), with one exception: [`Targets::Default`]. PEFT looks the targets up in a list of known
//! architectures; here nothing depends on such a list, and LoRA attaches to every linear projection, which also learns best.

pub mod fields;
mod new_head;
pub mod options;
mod prompts;
mod scope;
pub mod settings;
mod task;

pub use new_head::{HeadModules, NewHead, Pooling};
pub use prompts::{PrefixConfig, PrefixInit, PromptConfig, PromptEncoderConfig, PromptInit, PromptShape, Reparameterization};
pub use scope::{Bias, Scope, Selection, Targets};
pub use task::Task;

use crate::error::{Error, Result};
use crate::num;

/// No rank, width or number of tokens of a model is larger.
const MOST: usize = 1 << 20;

/// Checks a rank, a width or a number of things: at least 1, and not beyond reason.
///
/// # Errors
/// Another one.
pub fn at_least_one(field: &str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::mismatch(field.to_owned(), "at least 1", value)),
        1..=MOST => Ok(()),
        _ => Err(Error::mismatch(field.to_owned(), format!("at most {MOST}"), value)),
    }
}

/// Checks a number.
///
/// # Errors
/// Another one.
pub fn finite(field: &str, value: f64) -> Result<()> {
    if !value.is_finite() {
        return Err(Error::mismatch(field.to_owned(), "a finite number", value));
    }
    num::in_float32(value, |expected, found| Error::mismatch(field.to_owned(), expected, found))
}

/// Checks a number that a change of the weights is multiplied by, and says so where that leaves nothing of it.
///
/// # Errors
/// As [`finite`].
pub fn scaling(field: &str, value: f64) -> Result<()> {
    finite(field, value)?;
    if value == 0.0 {
        tracing::warn!("{field} is 0: the adapter changes nothing, and learns nothing");
    }
    Ok(())
}

/// Checks a probability.
///
/// # Errors
/// Another one.
pub fn probability(field: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) {
        return Err(Error::mismatch(field.to_owned(), "a number from 0 to below 1", value));
    }
    num::share_in_float32(value, |expected, found| Error::mismatch(field.to_owned(), expected, found))
}
