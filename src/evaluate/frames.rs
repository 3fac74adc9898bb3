//! Frames of sounds that were filled up to the longest in their batch.

use crate::data::{Example, Labels};
use crate::error::{Error, Place, Result};
use crate::num;
use crate::ort::HostTensor;

/// The frames that are each row's own, of as many as the longest row has: what is behind them is heard in padding. Where the graph does not tell, signals
/// that are filled up tell by their lengths.
pub(super) fn own_frames(rows: &[Example], frames: usize, told: Option<&HostTensor>) -> Result<Vec<usize>> {
    if let Some(told) = told {
        return Ok(told
            .as_i64()?
            .iter()
            .map(|count| num::index(*count).min(frames))
            .chain(std::iter::repeat(frames))
            .take(rows.len())
            .collect());
    }
    let samples = |row: &Example| row.columns.values().find(|column| column.shape.len() == 1).map_or(0, |signal| signal.values.len());
    let longest = rows.iter().map(samples).max().unwrap_or_default();
    let share = |row: &Example| if longest == 0 { frames } else { (frames * samples(row)).div_ceil(longest) };
    Ok(rows.iter().map(share).collect())
}

/// Refuses a text that its sound has too few frames for: each symbol takes one, and a blank stands between two alike.
///
/// # Errors
/// The first such row, with its line.
pub(super) fn check_texts(rows: &[Example], found: &[HostTensor]) -> Result<()> {
    let Some(logits) = found.first() else { return Ok(()) };
    let frames = own_frames(rows, logits.shape().get(1).copied().unwrap_or_default(), found.get(1))?;
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
