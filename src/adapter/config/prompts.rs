//! Options of the methods that put virtual tokens in front.

use serde_json::{Value, json};

use super::fields::Fields;
use super::settings::{Settings, list_or_null};
use crate::error::{Error, Result};
use crate::ir::Tensor;

/// Sizes of the base that PEFT writes into the configuration of a prompt method; filled in when the method is inserted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptShape {
    /// Length of an embedding; for prefixes, of all heads' keys of one layer.
    pub token_dim: Option<usize>,
    /// Number of layers.
    pub num_layers: Option<usize>,
    /// Number of heads; for prefixes, of keys and values.
    pub num_attention_heads: Option<usize>,
    /// 2 for encoder-decoder models, else 1.
    pub num_transformer_submodules: Option<usize>,
}

impl PromptShape {
    pub(in crate::adapter) fn read(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            token_dim: fields.size("token_dim")?,
            num_layers: fields.size("num_layers")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            num_transformer_submodules: fields.size("num_transformer_submodules")?,
        })
    }

    /// Writes what the settings of all prompt methods have.
    pub(in crate::adapter) fn write(&self, num_virtual_tokens: usize, modules_to_save: &[String], settings: &mut Settings) {
        settings.put("num_virtual_tokens", num_virtual_tokens);
        settings.put("token_dim", json!(self.token_dim));
        settings.put("num_layers", json!(self.num_layers));
        settings.put("num_attention_heads", json!(self.num_attention_heads));
        settings.put("num_transformer_submodules", json!(self.num_transformer_submodules));
        settings.put_unless("modules_to_save", list_or_null(modules_to_save), &Value::Null);
    }

    pub(in crate::adapter) fn virtual_tokens(fields: &Fields<'_>) -> Result<usize> {
        fields.size("num_virtual_tokens")?.ok_or_else(|| Error::not_found("setting", "num_virtual_tokens"))
    }
}

/// How a prompt starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PromptInit {
    /// Standard normal.
    #[default]
    Random,
    /// Embeddings of random tokens.
    Vocabulary,
    /// Embeddings of a text's tokens, repeated or cut.
    Text(String),
    /// Embeddings of these tokens, repeated or cut: a text that was taken apart already.
    Tokens(Vec<usize>),
}

/// The options of prompt tuning (`PromptTuningConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptConfig {
    /// Number of virtual tokens.
    pub num_virtual_tokens: usize,
    /// How the prompt starts.
    pub init: PromptInit,
    /// Modules that are trained and saved as a whole.
    pub modules_to_save: Vec<String>,
    /// Sizes of the base.
    pub shape: PromptShape,
}

/// How a prefix starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PrefixInit {
    /// Normal, with a small deviation.
    #[default]
    Random,
    /// The keys and values that the base has for a text's tokens, repeated or cut.
    Text(String),
    /// These rows, float32 `[tokens, layers · 2 · heads · size]`: a text's keys and values that were computed already.
    Rows(Tensor),
}

impl PrefixInit {
    /// The rows, where they are known.
    #[must_use]
    pub fn rows(&self) -> Option<&Tensor> {
        match self {
            Self::Rows(rows) => Some(rows),
            Self::Random | Self::Text(_) => None,
        }
    }
}

/// The options of prefix tuning (`PrefixTuningConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrefixConfig {
    /// Number of virtual tokens.
    pub num_virtual_tokens: usize,
    /// Whether keys and values are computed by a two-layer network; without, they are trained directly (P-tuning v2).
    pub prefix_projection: bool,
    /// Width of that network; `token_dim` if not said.
    pub encoder_hidden_size: Option<usize>,
    /// How the prefix starts.
    pub init: PrefixInit,
    /// Modules that are trained and saved as a whole.
    pub modules_to_save: Vec<String>,
    /// Sizes of the base.
    pub shape: PromptShape,
}

/// What computes the prompt of P-tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Reparameterization {
    /// Three linear layers.
    #[default]
    Mlp,
    /// A bidirectional LSTM and two linear layers.
    Lstm,
}

/// The options of P-tuning (`PromptEncoderConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct PromptEncoderConfig {
    /// Number of virtual tokens.
    pub num_virtual_tokens: usize,
    /// What computes the prompt.
    pub reparameterization: Reparameterization,
    /// Its width; `token_dim` if not said.
    pub encoder_hidden_size: Option<usize>,
    /// Number of layers of the LSTM; PEFT's MLP always has 2 hidden ones.
    pub encoder_num_layers: usize,
    /// Dropout of the LSTM.
    pub encoder_dropout: f64,
    /// Modules that are trained and saved as a whole.
    pub modules_to_save: Vec<String>,
    /// Sizes of the base.
    pub shape: PromptShape,
}

impl Default for PromptEncoderConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 0,
            reparameterization: Reparameterization::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
            modules_to_save: vec![],
            shape: PromptShape::default(),
        }
    }
}
