//! What a teacher says of rows, in columns of the data.

use crate::anatomy::Reads;
use crate::data::encoder::Encoder;
use crate::data::example::Example;
use crate::error::{Error, Result};
use crate::train::distillation::inputs;

/// Checks that a row has the teacher's answer where the data is to have it: as many numbers as there are classes.
///
/// # Errors
/// A row without it, or with another number of them.
pub(in crate::data) fn check_taught(example: &Example, encoder: &Encoder<'_>) -> Result<()> {
    let loss = encoder.reading.loss;
    if loss.distillation.is_none() || loss.teacher.is_some() {
        return Ok(());
    }
    let reads = encoder.task().row().reads;
    let count = encoder.reading.limits.classes.filter(|_| matches!(reads, Reads::Logits | Reads::TokenLogits));
    for name in inputs(reads) {
        let hint = "it has the teacher's logits, as many as the student gives; `inject --teacher MODEL` has a model say them";
        let found = example.columns.get(*name).ok_or_else(|| Error::not_found("column", *name).with_hint(hint))?;
        let own = found.shape.last().copied().unwrap_or(1);
        if let Some(count) = count.filter(|count| *count != own) {
            return Err(Error::mismatch(format!("numbers in {name}"), format!("{count}, one for each class"), own).with_hint(hint));
        }
    }
    Ok(())
}
