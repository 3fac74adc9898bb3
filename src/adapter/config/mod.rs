//! What a user asks of a method: plain values, in PEFT's words, without the layout of any file.
//!
//! Defaults are PEFT's (`peft/tuners/*/config.py`, 0.21), with one exception: [`Targets::Default`]. PEFT looks the targets up in a list of known
//! architectures; here nothing depends on such a list, and LoRA attaches to every linear projection, which also learns best.

mod new_head;
mod prompts;
mod scope;
mod task;
mod tuners;

pub use new_head::{HeadModules, NewHead, Pooling};
pub use prompts::{PrefixConfig, PrefixInit, PromptConfig, PromptEncoderConfig, PromptInit, PromptShape, Reparameterization};
pub use scope::{Bias, Scope, Selection, Targets};
pub use task::Task;
pub use tuners::{HeadConfig, Ia3Config, LnTuningConfig, LokrConfig, LoraConfig, LoraInit, ProductConfig, TokensConfig, VeraConfig};

use crate::error::{Error, Result};

/// A method and how it is configured.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Low-rank updates of projections.
    Lora(LoraConfig),
    /// Learned embeddings in front of the tokens.
    Prompt(PromptConfig),
    /// Learned keys and values in front of every layer's: prefix tuning, and P-tuning v2, which is the same without a projection.
    Prefix(PrefixConfig),
    /// P-tuning: learned embeddings in front of the tokens, computed by a small encoder.
    PromptEncoder(PromptEncoderConfig),
    /// Learned factors of activations.
    Ia3(Ia3Config),
    /// Some of the base's own modules, trained as they are.
    Head(HeadConfig),
    /// Rows of embeddings, trained as they are.
    TrainableTokens(TokensConfig),
    /// Normalisation layers, trained as they are.
    LnTuning(LnTuningConfig),
    /// Learned scales of shared random projections.
    Vera(VeraConfig),
    /// Updates that are Hadamard products of two low-rank matrices.
    Loha(ProductConfig),
    /// Updates that are Kronecker products.
    Lokr(LokrConfig),
}

impl Method {
    /// The name on the command line and in manifests: `lora`, `p_tuning_v2`, ...
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lora(_) => "lora",
            Self::Prompt(_) => "prompt_tuning",
            Self::Prefix(config) if config.prefix_projection => "prefix_tuning",
            Self::Prefix(_) => "p_tuning_v2",
            Self::PromptEncoder(_) => "p_tuning",
            Self::Ia3(_) => "ia3",
            Self::Head(_) => "head",
            Self::TrainableTokens(_) => "trainable_tokens",
            Self::LnTuning(_) => "ln_tuning",
            Self::Vera(_) => "vera",
            Self::Loha(_) => "loha",
            Self::Lokr(_) => "lokr",
        }
    }

    /// Whether the method puts virtual tokens in front, rather than changing modules.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        matches!(self, Self::Prompt(_) | Self::Prefix(_) | Self::PromptEncoder(_))
    }

    /// Where the method attaches, if it attaches to modules.
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Lora(config) => Some(&config.scope),
            Self::Ia3(config) => Some(&config.scope),
            Self::LnTuning(config) => Some(&config.scope),
            Self::Vera(config) => Some(&config.scope),
            Self::Loha(config) => Some(&config.scope),
            Self::Lokr(config) => Some(&config.product.scope),
            Self::Prompt(_) | Self::Prefix(_) | Self::PromptEncoder(_) | Self::TrainableTokens(_) | Self::Head(_) => None,
        }
    }

    /// Modules of the base that are trained and saved as a whole beside the method, as the user named them.
    #[must_use]
    pub fn modules_to_save(&self) -> &[String] {
        match self {
            Self::Lora(config) => &config.scope.modules_to_save,
            Self::Prompt(config) => &config.modules_to_save,
            Self::Prefix(config) => &config.modules_to_save,
            Self::PromptEncoder(config) => &config.modules_to_save,
            Self::Ia3(config) => &config.scope.modules_to_save,
            Self::Head(config) => &config.modules_to_save,
            Self::TrainableTokens(_) => &[],
            Self::LnTuning(config) => &config.scope.modules_to_save,
            Self::Vera(config) => &config.scope.modules_to_save,
            Self::Loha(config) => &config.scope.modules_to_save,
            Self::Lokr(config) => &config.product.scope.modules_to_save,
        }
    }

    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// If a rank is 0, a dropout is not in `[0, 1)`, or two settings contradict each other.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Lora(config) => config.check(),
            Self::Prompt(config) => at_least_one("num_virtual_tokens", config.num_virtual_tokens),
            Self::Prefix(config) => {
                at_least_one("encoder_hidden_size", config.encoder_hidden_size.unwrap_or(1))?;
                at_least_one("num_virtual_tokens", config.num_virtual_tokens)
            }
            Self::PromptEncoder(config) => {
                at_least_one("num_virtual_tokens", config.num_virtual_tokens)?;
                at_least_one("encoder_hidden_size", config.encoder_hidden_size.unwrap_or(1))?;
                at_least_one("encoder_num_layers", config.encoder_num_layers)?;
                probability("encoder_dropout", config.encoder_dropout)
            }
            Self::Head(_) => Ok(()),
            Self::TrainableTokens(config) => at_least_one("number of token_indices", config.rows.len())
                .map_err(|error| error.with_hint("--trainable-token-indices names the tokens whose rows are trained, by number")),
            Self::Ia3(config) => config.scope.check(),
            Self::LnTuning(config) => config.scope.check(),
            Self::Vera(config) => {
                at_least_one("r", config.rank)?;
                probability("vera_dropout", config.dropout)?;
                config.scope.check()
            }
            Self::Loha(config) => config.check(),
            Self::Lokr(config) => config.product.check(),
        }
    }
}

/// No rank, width or number of tokens of a model is larger.
const MOST: usize = 1 << 20;

/// Checks a rank, a width or a number of things: at least 1, and not beyond reason.
fn at_least_one(field: &str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::mismatch(field.to_owned(), "at least 1", value)),
        1..=MOST => Ok(()),
        _ => Err(Error::mismatch(field.to_owned(), format!("at most {MOST}"), value)),
    }
}

fn finite(field: &str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::mismatch(field.to_owned(), "a finite number", value)) }
}

fn probability(field: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(Error::mismatch(field.to_owned(), "a number from 0 to below 1", value)) }
}
