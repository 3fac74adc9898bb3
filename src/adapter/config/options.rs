//! What a user asks of a method, in words that methods share; each takes those that it knows.

use indexmap::IndexMap;

use super::{Bias, PrefixInit, PromptInit, Reparameterization, Scope, Selection, Targets};
use crate::error::{Error, Result};
use crate::num;

/// The options of a new adapter. What is not said is the method's own default; what is said, the method must take (see [`TABLE`]).
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches, each on its own")]
pub struct Options {
    /// The method's name as it was typed: a row's name, or another name of it.
    pub name: String,
    /// Where it attaches, and which modules are trained as a whole.
    pub scope: Scope,
    /// Rank of the update.
    pub rank: Option<usize>,
    /// Numerator of the scale.
    pub alpha: Option<f64>,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: Option<f64>,
    /// Whether ranks are allocated while training.
    pub allocate_ranks: bool,
    /// Ranks of single modules.
    pub rank_pattern: IndexMap<String, usize>,
    /// Alphas of single modules.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Whether the scale is `alpha / √rank`.
    pub use_rslora: bool,
    /// Whether weights are decomposed into magnitude and direction.
    pub use_dora: bool,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// PEFT's name of how LoRA's factors start.
    pub init_lora_weights: Option<String>,
    /// Tokens whose embeddings are trained.
    pub trainable_token_indices: Vec<usize>,
    /// Targets whose input is scaled.
    pub feedforward: Option<Selection>,
    /// Number of virtual tokens.
    pub num_virtual_tokens: Option<usize>,
    /// Whether a prefix is computed by a network.
    pub prefix_projection: bool,
    /// Width of the network that computes virtual tokens.
    pub encoder_hidden_size: Option<usize>,
    /// What computes the prompt of P-tuning.
    pub reparameterization: Option<Reparameterization>,
    /// Number of layers of its LSTM.
    pub encoder_num_layers: Option<usize>,
    /// How virtual tokens start.
    pub prompt_init: Option<PromptStart>,
    /// The text that they start from.
    pub prompt_init_text: Option<String>,
    /// Other settings of the method, by PEFT's names.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// Whether a user said an option.
type Given = fn(&Options) -> bool;

/// Options that a method takes or not: the name, by which a method's row lists it, and whether a user said it.
pub static TABLE: &[(&str, Given)] = &[
    ("target_modules", |options| options.scope.targets != Targets::Default),
    ("exclude_modules", |options| options.scope.exclude.is_some()),
    ("layers_to_transform", |options| !options.scope.layers_to_transform.is_empty()),
    ("layers_pattern", |options| !options.scope.layers_pattern.is_empty()),
    ("modules_to_save", |options| !options.scope.modules_to_save.is_empty()),
    ("rank", |options| options.rank.is_some()),
    ("alpha", |options| options.alpha.is_some()),
    ("dropout", |options| options.dropout.is_some()),
    ("allocate_ranks", |options| options.allocate_ranks),
    ("rank_pattern", |options| !options.rank_pattern.is_empty()),
    ("alpha_pattern", |options| !options.alpha_pattern.is_empty()),
    ("use_rslora", |options| options.use_rslora),
    ("use_dora", |options| options.use_dora),
    ("bias", |options| options.bias != Bias::None),
    ("init_lora_weights", |options| options.init_lora_weights.is_some()),
    ("trainable_token_indices", |options| !options.trainable_token_indices.is_empty()),
    ("feedforward_modules", |options| options.feedforward.is_some()),
    ("num_virtual_tokens", |options| options.num_virtual_tokens.is_some()),
    ("prefix_projection", |options| options.prefix_projection),
    ("encoder_hidden_size", |options| options.encoder_hidden_size.is_some()),
    ("encoder_reparameterization_type", |options| options.reparameterization.is_some()),
    ("encoder_num_layers", |options| options.encoder_num_layers.is_some()),
    ("prompt_init", |options| options.prompt_init.is_some()),
    ("prompt_init_text", |options| options.prompt_init_text.is_some()),
];

/// The options that say where a method attaches.
pub const SCOPE: &[&str] = &["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"];

/// How virtual tokens start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum PromptStart {
    /// Normally distributed values.
    Random,
    /// Embeddings of random tokens.
    #[cfg_attr(feature = "cli", value(name = "vocab"))]
    Vocabulary,
    /// Embeddings of the tokens of `prompt_init_text`.
    Text,
}

impl Options {
    /// The rank, and an alpha that is twice the rank if it is not said.
    #[must_use]
    pub fn rank_and_alpha(&self, rank: usize) -> (usize, f64) {
        let rank = self.rank.unwrap_or(rank);
        (rank, self.alpha.unwrap_or_else(|| 2.0 * num::float(rank)))
    }

    /// The number of virtual tokens.
    #[must_use]
    pub fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens.unwrap_or(20)
    }

    /// The rows that are trained, each once.
    #[must_use]
    pub fn rows(&self) -> Vec<usize> {
        let rows: std::collections::BTreeSet<usize> = self.trainable_token_indices.iter().copied().collect();
        rows.into_iter().collect()
    }

    /// How a prompt starts.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub fn prompt_init(&self) -> Result<PromptInit> {
        match (self.prompt_init, &self.prompt_init_text) {
            (Some(PromptStart::Random), None) => Ok(PromptInit::Random),
            (None | Some(PromptStart::Vocabulary), None) => Ok(PromptInit::Vocabulary),
            (None | Some(PromptStart::Text), Some(text)) => Ok(PromptInit::Text(text.clone())),
            (Some(PromptStart::Text), None) => Err(Error::setting("prompt_init_text", "the text to start from", "none")),
            (Some(_), Some(_)) => Err(Error::setting("prompt_init", "text, as a text to start from is given", "another start")),
        }
    }

    /// How a prefix starts.
    ///
    /// # Errors
    /// Options that contradict each other; the vocabulary, which prefixes do not start from.
    pub fn prefix_init(&self) -> Result<PrefixInit> {
        match (self.prompt_init, &self.prompt_init_text) {
            (None | Some(PromptStart::Random), None) => Ok(PrefixInit::Random),
            (None | Some(PromptStart::Text), Some(text)) => Ok(PrefixInit::Text(text.clone())),
            (Some(PromptStart::Vocabulary), _) => {
                Err(Error::invalid("a prefix starts from random numbers or a text, not from the vocabulary"))
            }
            (Some(PromptStart::Text), None) => Err(Error::setting("prompt_init_text", "the text to start from", "none")),
            (Some(PromptStart::Random), Some(_)) => {
                Err(Error::setting("prompt_init", "text, as a text to start from is given", "another start"))
            }
        }
    }
}
