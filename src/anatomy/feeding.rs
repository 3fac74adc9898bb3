//! How a model is fed: what each of its data inputs is for, by its name in the graph, and the lengths that it insists on. The one answer
//! that training, evaluation, comparison and checks all go by.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::input_role::{MaskForm, Role};
use super::pictures::{self, PictureTokens};
use super::{Anatomy, fixed, last_position};
use crate::error::{Error, Result};
use crate::ir::Graph;

/// The input of graphs of training that tells which of the rows that were put into one row a token belongs to.
pub const SEGMENTS: &str = "packing_segments";

/// How a model is fed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feeding {
    /// What each data input is for, by its name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub inputs: IndexMap<String, Role>,
    /// The only number of rows that the graph computes with, if there is but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// Whether the file says that any number of rows will do all the same: a tracer left its example's in the graph's constants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declares_any_rows: bool,
    /// The only number of tokens, if there is but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// The token that stands for pictures, and how many there are of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PictureTokens>,
    /// What comes of tokens that fill up short rows.
    #[serde(default, skip_serializing_if = "Padding::is_hidden")]
    pub padding: Padding,
}

/// What a model makes of the tokens that fill up short rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// A mask hides them.
    #[default]
    Hidden,
    /// No token looks at later ones, so that those behind a row change nothing in it.
    Later,
    /// A mask hides them, and the model reads its last position: they stand before a row.
    Before,
    /// They are read like all others: rows of different lengths must not come together.
    Read,
}

impl Padding {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_hidden(&self) -> bool {
        *self == Self::Hidden
    }
}

/// Tokens that a graph computes with at once, at most: more than any model takes, and few enough to be filled in.
const MOST_TOKENS: usize = 1 << 24;

impl Feeding {
    /// Checks the lengths that a file insists on, before anything is filled up to them.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) for more than any model takes.
    pub fn check(&self) -> Result<()> {
        let (rows, length) = (self.rows.unwrap_or(1), self.length.unwrap_or(1));
        if rows.checked_mul(length).is_some_and(|tokens| tokens <= MOST_TOKENS) {
            return Ok(());
        }
        let found = format!("{rows} rows of {length}");
        let error = Error::mismatch("tokens that the model takes at once", format!("at most {MOST_TOKENS}"), found);
        Err(error.with_hint("export the model with free lengths of batch and sequence"))
    }

    /// What an input of this name is for; names of Hugging Face's models are known where nothing was recognised.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<Role> {
        let by_name = || match name {
            "input_ids" => Some(Role::InputIds),
            "attention_mask" => Some(Role::AttentionMask(MaskForm::Seen)),
            "position_ids" => Some(Role::PositionIds),
            "token_type_ids" => Some(Role::TokenTypeIds),
            "labels" => Some(Role::Labels),
            SEGMENTS => Some(Role::Segments),
            "decoder_input_ids" => Some(Role::DecoderInputIds),
            "decoder_attention_mask" => Some(Role::DecoderAttentionMask(MaskForm::Seen)),
            "encoder_attention_mask" => Some(Role::EncoderAttentionMask(MaskForm::Seen)),
            "pixel_values" => Some(Role::PixelValues),
            "pixel_attention_mask" | "pixel_mask" => Some(Role::PixelMask),
            "use_cache_branch" => Some(Role::UseCacheBranch),
            _ => None,
        };
        self.inputs.get(name).copied().or_else(by_name)
    }

    /// Has the columns that a loss reads fed, but for those that the model gives itself.
    pub fn feed_columns(&mut self, graph: &Graph, columns: impl Iterator<Item = String>) {
        let outputs: Vec<&str> = graph.outputs().iter().map(|&id| graph.value_name(id)).collect();
        for column in columns.filter(|column| !outputs.contains(&column.as_str())) {
            self.inputs.entry(column).or_insert(Role::Column);
        }
    }

    /// The names of inputs with a role.
    pub fn named(&self, wanted: impl Fn(Role) -> bool) -> impl Iterator<Item = &str> {
        self.inputs.iter().filter(move |(_, role)| wanted(**role)).map(|(name, _)| name.as_str())
    }
}

/// How a graph is fed: roles that anatomy found, and the lengths that the graph insists on.
#[must_use]
pub fn feeding(graph: &Graph, anatomy: &Anatomy) -> Feeding {
    let roles = &anatomy.inputs.roles;
    let size = |length: Option<i64>| length.and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
    let fixed = fixed::find(graph, anatomy);
    let has = |is: fn(Role) -> bool| roles.iter().any(|(_, role)| is(*role));
    let hides = has(|role| matches!(role, Role::AttentionMask(_) | Role::Lengths));
    let padding = match () {
        () if !has(|role| role == Role::InputIds) => Padding::Hidden,
        () if last_position::is_read(graph, anatomy) => {
            if hides {
                Padding::Before
            } else {
                Padding::Read
            }
        }
        () if hides => Padding::Hidden,
        () if !anatomy.attentions.is_empty() && anatomy.attentions.iter().all(|attention| attention.causal) => Padding::Later,
        () => Padding::Read,
    };
    Feeding {
        inputs: roles.iter().map(|&(id, role)| (graph.value_name(id).to_owned(), role)).collect(),
        rows: size(fixed.rows),
        declares_any_rows: fixed.has_free_rows && fixed.rows.is_some(),
        length: size(fixed.length),
        pictures: pictures::tokens(graph, anatomy),
        padding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_beyond_reason_are_refused() {
        for (rows, length, is_right) in [
            (None, None, true),
            (Some(1), Some(8192), true),
            (Some(4096), Some(4096), true),
            (Some(1 << 30), None, false),
            (None, Some(1 << 62), false),
            (Some(1 << 40), Some(1 << 40), false),
        ] {
            assert_eq!(Feeding { rows, length, ..Feeding::default() }.check().is_ok(), is_right, "{rows:?} x {length:?}");
        }
    }
}
