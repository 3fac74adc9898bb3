//! What the rows of a batch are filled up with.

use super::sampler::Sampler;
use super::tokenizer::Tokenizer;
use crate::anatomy::Feeding;
use crate::media::Augmentation;

/// What rows are filled up with, and what hides tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collation {
    /// The token behind the end of a short row.
    pub pad: i32,
    /// The token with which a decoder starts; by default the one that fills up.
    pub decoder_start: Option<i32>,
    /// The token that hides another, for masked language models.
    pub mask: Option<i32>,
    /// Tokens that are never hidden.
    pub never_hidden: Vec<i32>,
    /// How many tokens there are, to hide some behind random ones.
    pub vocabulary: usize,
    /// What the model's inputs are for, and the lengths that it insists on.
    pub feeding: Feeding,
    /// Rows that the model runs on at a time, where a batch is parted to save memory.
    pub micro_batch: Option<usize>,
    /// Whether the loss reads what short rows are filled up with, so that parts of a batch are filled up to the batch's longest row.
    pub fills_alike: bool,
    /// Whether a batch's loss is the sum of its rows': a part of it counts by its share of the rows.
    pub adds_rows_up: bool,
    /// Whether a model is asked for what a teacher says, where the data does not.
    pub asks_teacher: bool,
    /// Which rows may be in one batch.
    pub sampler: Sampler,
    /// Random augmentation of pictures.
    pub augmentation: Augmentation,
}

impl Collation {
    /// What a tokenizer's own tokens are for.
    #[must_use]
    pub fn of(tokenizer: &Tokenizer) -> Self {
        Self {
            pad: tokenizer.pad(),
            decoder_start: None,
            mask: tokenizer.mask(),
            never_hidden: tokenizer.special_tokens(),
            vocabulary: tokenizer.vocabulary_size(),
            feeding: Feeding::default(),
            micro_batch: None,
            fills_alike: false,
            adds_rows_up: false,
            asks_teacher: false,
            sampler: Sampler::Any,
            augmentation: Augmentation::default(),
        }
    }
}
