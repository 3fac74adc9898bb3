//! What an input of a model is for.

use serde::{Deserialize, Serialize};

/// What a data input is for, which decides what it is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token numbers, `[batch, seq]`.
    InputIds,
    /// Which tokens are attended to.
    AttentionMask(MaskForm),
    /// The position of each token.
    PositionIds,
    /// The segment of each token.
    TokenTypeIds,
    /// An image, `[batch, channels, height, width]`.
    PixelValues,
    /// Which pixels are the picture's own, not padding around it, `[batch, height, width]`, or with an axis of pictures before the last two.
    PixelMask,
    /// How many tokens a row has, `[batch]`.
    Lengths,
    /// What the decoder reads.
    DecoderInputIds,
    /// Which of the decoder's tokens are attended to.
    DecoderAttentionMask(MaskForm),
    /// Which of the encoder's tokens the decoder attends to.
    EncoderAttentionMask(MaskForm),
    /// A part of the cache, which is empty.
    Past,
    /// Which heads of attention are there, `[layers, heads]` or `[heads]`: all.
    HeadMask,
    /// Whether the cache is read: no.
    UseCacheBranch,
    /// The labels, where the model computes a loss of its own.
    Labels,
    /// Which of the rows that were put into one row a token belongs to, `[batch, seq]`.
    Segments,
    /// A column of the data that has the input's own name.
    Column,
    /// Nothing: no node reads it.
    Unread,
}

/// How a mask tells which tokens are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskForm {
    /// 1 where a token is seen, else 0.
    #[default]
    Seen,
    /// 1 where a token is hidden, else 0.
    Hidden,
    /// 0 where a token is seen, a very small number where it is hidden: what is added to scores.
    Added,
}

impl MaskForm {
    /// The number that stands for a token that is seen.
    #[must_use]
    pub fn seen(self) -> f64 {
        if self == Self::Seen { 1.0 } else { 0.0 }
    }
}

impl Role {
    /// The column of the data that fills the input: what Hugging Face calls it. None for inputs that no usual column fills.
    #[must_use]
    pub fn column(self) -> Option<&'static str> {
        match self {
            Self::InputIds => Some("input_ids"),
            Self::AttentionMask(_) => Some("attention_mask"),
            Self::PositionIds => Some("position_ids"),
            Self::TokenTypeIds => Some("token_type_ids"),
            Self::PixelValues => Some("pixel_values"),
            Self::DecoderInputIds => Some("decoder_input_ids"),
            Self::Labels => Some("labels"),
            _ => None,
        }
    }

    /// What the input is for, in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::InputIds => "tokens",
            Self::AttentionMask(MaskForm::Seen) => "mask, 1 for tokens that are seen",
            Self::AttentionMask(MaskForm::Hidden) => "mask, 1 for tokens that are hidden",
            Self::AttentionMask(MaskForm::Added) => "mask, added to scores",
            Self::PositionIds => "positions",
            Self::TokenTypeIds => "segments",
            Self::PixelValues => "images",
            Self::PixelMask => "mask of images, 1 for pixels that are there",
            Self::Lengths => "lengths of rows",
            Self::DecoderInputIds => "tokens of the decoder",
            Self::DecoderAttentionMask(_) => "mask of the decoder's tokens",
            Self::EncoderAttentionMask(_) => "mask of the encoder's tokens",
            Self::Segments => "rows that were put into one",
            Self::Past => "cache, empty",
            Self::HeadMask => "mask of heads, 1 for each",
            Self::UseCacheBranch => "whether there is a cache: no",
            Self::Labels => "labels",
            Self::Column => "the data's column of this name",
            Self::Unread => "zeros, which nothing reads",
        }
    }
}
