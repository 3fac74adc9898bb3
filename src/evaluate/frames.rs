//! Frames of sounds that were filled up to the longest in their batch.

use crate::data::Example;
use crate::error::Result;
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
