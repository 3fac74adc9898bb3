//! Virtual tokens: what they are computed by, and what a graph needs to have room for them.

pub(crate) mod decoder;
pub mod encoder;
pub(crate) mod extended_masks;
pub(crate) mod prepend;
pub(crate) mod rows;
pub(crate) mod score_shapes;

use crate::anatomy::Anatomy;
use crate::num;
use crate::{Error, Result};

/// # Errors
/// More virtual tokens than the model has positions.
pub(crate) fn check_room(anatomy: &Anatomy, tokens: usize) -> Result<()> {
    match anatomy.max_positions {
        Some(positions) if num::int(tokens) >= positions => {
            let error = Error::mismatch("num_virtual_tokens", format!("fewer than the model's {positions} positions"), tokens);
            Err(error.with_hint("virtual tokens take positions from the text: 8 to 100 are usual"))
        }
        _ => Ok(()),
    }
}
