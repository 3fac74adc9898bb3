//! Options of the methods that change modules.

use indexmap::IndexMap;

use super::scope::{Bias, Scope, Selection};
use super::{at_least_one, finite, probability};
use crate::error::{Error, Result};

/// How LoRA's factors start (`init_lora_weights`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoraInit {
    /// `A` uniform in `±1/√in` (Kaiming with `a = √5`), `B` zero: a fresh adapter changes nothing.
    #[default]
    Kaiming,
    /// `A` normal with standard deviation `1/r`, `B` zero.
    Gaussian,
    /// Both uniform: for tests, where a fresh adapter should change something.
    Random,
    /// From the weight's largest singular values (PiSSA), nearly so where a number of iterations is given; the base's part of them is taken away.
    Pissa {
        /// Rounds of the search for the space of the largest ones.
        iterations: Option<usize>,
    },
    /// From the weight's QR factors (OLoRA); the base's part of them is taken away.
    Olora,
    /// One that leaves the base alone but is not computed here (`eva`, `orthogonal`): fine where the values come from a file.
    FromFile(String),
}

impl LoraInit {
    /// Whether the factors are a part of the weight, which is taken away from it.
    #[must_use]
    pub fn is_decomposed(&self) -> bool {
        matches!(self, Self::Pissa { .. } | Self::Olora)
    }
}

/// The options of LoRA (`LoraConfig` in `peft/tuners/lora/config.py`).
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are PEFT's own switches, each on its own")]
pub struct LoraConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axis.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability with which an element of the input of `A` is dropped while training.
    pub dropout: f64,
    /// Other ranks: the first key that matches a module's path as `(.*\.)?(key)$`.
    pub rank_pattern: IndexMap<String, usize>,
    /// Other alphas, found like ranks.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Whether the scale is `alpha / √rank` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Whether weights are decomposed into magnitude and direction.
    pub use_dora: bool,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether `B` has a bias.
    pub lora_bias: bool,
    /// How the factors start.
    pub init: LoraInit,
    /// Whether the base's weights are stored `[in, out]`; PEFT sets it for `Conv1D`.
    pub fan_in_fan_out: bool,
    /// Rows of embeddings that are trained as they are: module name to rows.
    pub trainable_token_indices: IndexMap<String, Vec<usize>>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            use_rslora: false,
            use_dora: false,
            bias: Bias::None,
            lora_bias: false,
            init: LoraInit::Kaiming,
            fan_in_fan_out: false,
            trainable_token_indices: IndexMap::new(),
        }
    }
}

impl LoraConfig {
    pub(super) fn check(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        for (key, &rank) in &self.rank_pattern {
            at_least_one(&format!("rank_pattern {key:?}"), rank)?;
        }
        finite("lora_alpha", self.alpha)?;
        for (key, &alpha) in &self.alpha_pattern {
            finite(&format!("alpha_pattern {key:?}"), alpha)?;
        }
        probability("lora_dropout", self.dropout)?;
        if self.lora_bias && self.use_dora {
            return Err(Error::invalid("lora_bias cannot be used with use_dora"));
        }
        if self.init.is_decomposed() && (self.lora_bias || self.use_dora) {
            return Err(Error::invalid("a LoRA that starts from the base's weights has neither magnitudes (use_dora) nor lora_bias"));
        }
        self.scope.check()
    }
}

/// The options of IA3 (`IA3Config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ia3Config {
    /// Where it attaches.
    pub scope: Scope,
    /// Targets whose input is scaled instead of their output.
    pub feedforward: Option<Selection>,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

/// The options of training some of the base's own modules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadConfig {
    /// The modules.
    pub modules_to_save: Vec<String>,
}

/// The options of training rows of embeddings (`TrainableTokensConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokensConfig {
    /// The tables; none: the one that tokens are looked up in.
    pub targets: Option<Selection>,
    /// The rows.
    pub rows: Vec<usize>,
}

/// The options of layer norm tuning (`LNTuningConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LnTuningConfig {
    /// The normalisation layers.
    pub scope: Scope,
}

/// The options of VeRA (`VeraConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct VeraConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axis.
    pub rank: usize,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
    /// Initial value of `vera_lambda_d`.
    pub d_initial: f64,
    /// Seed of the shared projections.
    pub projection_prng_key: i64,
    /// Whether the shared projections are kept in the file.
    pub save_projection: bool,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 256,
            dropout: 0.0,
            d_initial: 0.1,
            projection_prng_key: 0,
            save_projection: true,
            bias: Bias::None,
            fan_in_fan_out: false,
        }
    }
}

/// The options of LoHa (`LoHaConfig`), which LoKr shares.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axes.
    pub rank: usize,
    /// Numerator of the scale `alpha / rank`.
    pub alpha: f64,
    /// Other ranks, found as for LoRA.
    pub rank_pattern: IndexMap<String, usize>,
    /// Other alphas, found as for LoRA.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Probability with which a row of the update is dropped while training.
    pub rank_dropout: f64,
    /// Probability with which a module's whole update is dropped while training.
    pub module_dropout: f64,
}

impl Default for ProductConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 8,
            alpha: 8.0,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            rank_dropout: 0.0,
            module_dropout: 0.0,
        }
    }
}

impl ProductConfig {
    pub(super) fn check(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        finite("alpha", self.alpha)?;
        probability("rank_dropout", self.rank_dropout)?;
        probability("module_dropout", self.module_dropout)?;
        self.scope.check()
    }
}

/// The options of LoKr (`LoKrConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LokrConfig {
    /// What it shares with LoHa.
    pub product: ProductConfig,
    /// Whether the left factor is low-rank, too.
    pub decompose_both: bool,
    /// Size of the left factor; none: as near the square root as divides.
    pub decompose_factor: Option<usize>,
    /// Whether what dropout leaves is scaled up.
    pub rank_dropout_scale: bool,
}
