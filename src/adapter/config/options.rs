//! What a user asks of a method, in words that methods share; each takes those that it knows.

use indexmap::IndexMap;

use super::{Bias, PrefixInit, PromptInit, Reparameterization, Scope, Selection};
use crate::error::{Error, Result};

/// The options of a new adapter. What is not said is the method's own default.
#[derive(Clone, Debug, Default)]
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
    pub reparameterization: Reparameterization,
    /// Number of layers of its LSTM.
    pub encoder_num_layers: Option<usize>,
    /// How virtual tokens start.
    pub prompt_init: Option<PromptStart>,
    /// The text that they start from.
    pub prompt_init_text: Option<String>,
    /// Other settings of the method, by PEFT's names.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// How virtual tokens start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptStart {
    /// From random numbers.
    Random,
    /// From the embeddings of random tokens.
    Vocabulary,
    /// From a text.
    Text,
}

impl Options {
    /// The rank, and an alpha that is twice the rank if it is not said.
    #[must_use]
    pub fn rank_and_alpha(&self, rank: usize) -> (usize, f64) {
        let rank = self.rank.unwrap_or(rank);
        (rank, self.alpha.unwrap_or_else(|| 2.0 * f64::from(u32::try_from(rank).unwrap_or(u32::MAX))))
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
            (Some(PromptStart::Text), None) => Err(Error::invalid("--prompt-init text needs --prompt-init-text")),
            (Some(_), Some(_)) => Err(Error::invalid("--prompt-init-text goes with --prompt-init text alone")),
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
            (Some(PromptStart::Text), None) => Err(Error::invalid("--prompt-init text needs --prompt-init-text")),
            (Some(PromptStart::Random), Some(_)) => Err(Error::invalid("--prompt-init-text goes with --prompt-init text alone")),
        }
    }
}
