//! Frames of sounds that were filled up to the longest in their batch.

use crate::data::{Example, Labels};
use crate::error::{Error, Place, Result};
use crate::num;
use crate::ort::HostTensor;

/// The frames of each row that count in the loss, of as many as the longest row has: its own where a mask tells them, else all, as in transformers.
pub(super) fn counted_frames(rows: &[Example], frames: usize, told: Option<&HostTensor>) -> Result<Vec<usize>> {
    let told = told.map(HostTensor::as_i64).transpose()?.unwrap_or_default();
    Ok(told.iter().map(|count| num::index(*count).min(frames)).chain(std::iter::repeat(frames)).take(rows.len()).collect())
}

/// Refuses a text that its sound has too few frames for: each symbol takes one, and a blank stands between two alike.
///
/// # Errors
/// The first such row, with its line.
pub(super) fn check_texts(rows: &[Example], found: &[HostTensor]) -> Result<()> {
    let Some(logits) = found.first() else { return Ok(()) };
    let frames = counted_frames(rows, logits.shape().get(1).copied().unwrap_or_default(), found.get(1))?;
    for (row, frames) in rows.iter().zip(frames) {
        let Labels::Tokens(labels) = &row.labels else { continue };
        let symbols: Vec<i32> = labels.iter().copied().filter(|symbol| *symbol >= 0).collect();
        let doubled = symbols.windows(2).filter(|pair| pair[0] == pair[1]).count();
        if symbols.len() + doubled > frames {
            let what = "symbols of this row's text, with a blank between two alike";
            let error = Error::mismatch(what, format!("at most {frames}, the frames of its sound"), symbols.len() + doubled);
            let error = error.at(Place::Line(row.line));
            return Err(error.with_hint(
                "cut the text, give the whole sound, or leave the row out; `inject --loss-option zero_infinity=1` lets such rows cost nothing, as torch does",
            ));
        }
    }
    Ok(())
}
