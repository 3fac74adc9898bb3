//! Rows that are longer than the model takes, or than was asked for.

use super::example::{Example, Labels};
use super::reading::{Packing, Reading};
use crate::error::{Error, Result};

/// Cuts an example if it was asked for; whether it was too long.
///
/// # Errors
/// An example that is longer than the model takes, where nothing was asked for.
pub(super) fn shortened(example: &mut Example, reading: &Reading<'_>) -> Result<bool> {
    let limits = &reading.limits;
    let most = reading.max_length.filter(|length| reading.packing != Packing::Concatenate && *length < example.longest());
    if let Some(length) = most {
        let pictured = pictures(example, reading);
        example.cut(length);
        if pictures(example, reading) < pictured {
            let error = Error::mismatch("tokens in this row", format!("at most {length}"), "a picture that would be cut");
            return Err(error.with_hint("a larger `max_length` has room for the picture"));
        }
    }
    match limits.positions.filter(|positions| reading.packing != Packing::Concatenate && *positions < example.longest()) {
        None => Ok(most.is_some()),
        Some(positions) => {
            let room = match limits.virtual_tokens {
                0 => "the model's positions".to_owned(),
                taken => format!("the model's {} positions less {taken} virtual tokens", positions + taken),
            };
            let error = Error::mismatch("tokens in this row", format!("at most {positions}, {room}"), example.longest());
            Err(error.with_hint(format!("`max_length {positions}` cuts longer rows")))
        }
    }
}

/// Tokens of a row that stand for its picture.
fn pictures(example: &Example, reading: &Reading<'_>) -> usize {
    let token = reading.feeding.and_then(|feeding| feeding.pictures).map(|pictures| pictures.token);
    token.map_or(0, |token| example.input_ids.iter().filter(|id| i64::from(**id) == token).count())
}

impl Example {
    /// Tokens of its longest part.
    pub(crate) fn longest(&self) -> usize {
        let own = match &self.labels {
            Labels::Tokens(labels) => self.input_ids.len().max(labels.len()),
            _ => self.input_ids.len(),
        };
        self.others.iter().map(Self::longest).fold(own, usize::max)
    }

    /// Tokens of its longest text, labels left aside.
    pub(super) fn longest_text(&self) -> usize {
        self.others.iter().map(Self::longest_text).fold(self.input_ids.len(), usize::max)
    }

    fn cut(&mut self, length: usize) {
        let tokens = self.input_ids.len();
        for column in self.columns.values_mut().filter(|column| column.shape.first() == Some(&tokens) && tokens > length) {
            column.values.truncate(column.values.len() / tokens * length);
            column.shape[0] = length;
        }
        for column in [&mut self.input_ids, &mut self.attention_mask, &mut self.token_type_ids, &mut self.decoder_input_ids] {
            column.truncate(length);
            column.shrink_to_fit();
        }
        self.label_weights.truncate(length);
        if let Labels::Tokens(labels) = &mut self.labels {
            labels.truncate(length);
            labels.shrink_to_fit();
        }
    }
}
