//! How many rows a batch has.

use std::num::NonZeroUsize;

use crate::anatomy::Feeding;
use crate::error::{Error, Result};

/// Rows in a batch, where nothing else is said.
pub(super) const BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// Rows in a batch: as many as were asked for, else as many as a model takes at once, else the usual number.
#[must_use]
pub fn batch_size(asked: Option<NonZeroUsize>, feeding: &Feeding) -> NonZeroUsize {
    asked.or(feeding.rows.and_then(NonZeroUsize::new)).unwrap_or(BATCH_SIZE)
}

/// The same to train with. Where a file declares any number of rows and its graph computes with one alone, the file contradicts itself, so that the
/// number is asked for.
///
/// # Errors
/// No number for such a file.
pub fn batch_size_to_train(asked: Option<NonZeroUsize>, feeding: &Feeding) -> Result<NonZeroUsize> {
    match feeding.rows {
        Some(rows) if asked.is_none() && feeding.declares_any_rows => {
            let usual = BATCH_SIZE.get().next_multiple_of(rows.max(1));
            let what = format!("rows a step: the model's file declares any number at once, but its graph computes with {rows} alone");
            Err(Error::invalid(format!("{what}; how many is each step to learn from?")).with_hint(format!(
                "`batch_size {rows}` takes what the graph does, and so will the model that comes out; `batch_size {usual}` adds up {} runs a step; an \
                 export with a free batch has none of this",
                usual / rows.max(1)
            )))
        }
        _ => Ok(batch_size(asked, feeding)),
    }
}
