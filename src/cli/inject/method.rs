//! The options of methods.

use clap::ValueEnum;
use indexmap::IndexMap;

use crate::adapter::config::{
    Bias, HeadConfig, Ia3Config, LnTuningConfig, LokrConfig, LoraConfig, LoraInit, Method, PrefixConfig, PrefixInit, ProductConfig,
    PromptConfig, PromptEncoderConfig, PromptInit, Reparameterization, Scope, Selection, Targets, TokensConfig, VeraConfig,
};
use crate::error::{Error, Result};
use crate::export::PromptScale;

const LORA: &str = "Low-rank methods";
const PROMPTS: &str = "Soft prompts";
const SCOPE: &str = "Where it attaches";

/// The method to add, and its options.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MethodArgs {
    /// A fresh adapter of this method
    #[arg(long, value_name = "METHOD", ignore_case = true, help_heading = "What to add (one of these)")]
    pub method: Option<MethodName>,

    /// The modules to adapt: all-linear, names, or a regular expression [default for low-rank methods: every linear projection except the head]
    #[arg(long, alias = "lora-target-modules", value_name = "MODULES", help_heading = SCOPE, conflicts_with = "adapter")]
    pub target_modules: Option<String>,
    /// Modules to leave out: names or a regular expression
    #[arg(long, value_name = "MODULES", help_heading = SCOPE, conflicts_with = "adapter")]
    pub exclude_modules: Option<String>,
    /// Adapt only these layers, by number
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', help_heading = SCOPE, conflicts_with = "adapter")]
    pub layers_to_transform: Vec<usize>,
    /// The name of the list of layers, if it is not the first numbered one
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = SCOPE, conflicts_with = "adapter")]
    pub layers_pattern: Vec<String>,
    /// Modules to train and save as a whole
    #[arg(long, value_name = "MODULES", value_delimiter = ',', help_heading = SCOPE, conflicts_with = "adapter")]
    pub modules_to_save: Vec<String>,

    /// Rank of the update [default: 8; 256 for vera]
    #[arg(short, long, aliases = ["r", "lora-r", "lora-rank"], value_name = "RANK", help_heading = LORA, conflicts_with = "adapter")]
    pub rank: Option<usize>,
    /// Numerator of the scale alpha / rank [default: twice the rank]
    #[arg(long, alias = "lora-alpha", value_name = "ALPHA", help_heading = LORA, conflicts_with = "adapter")]
    pub alpha: Option<f64>,
    /// Dropout probability of the adapter's input [default: 0]
    #[arg(long, alias = "lora-dropout", value_name = "SHARE", help_heading = LORA, conflicts_with = "adapter")]
    pub dropout: Option<f64>,
    /// Scale by alpha / sqrt(rank)
    #[arg(long, help_heading = LORA, conflicts_with = "adapter")]
    pub use_rslora: bool,
    /// Decompose weights into magnitude and direction
    #[arg(long, help_heading = LORA, conflicts_with = "adapter")]
    pub use_dora: bool,
    /// Biases of the base to train as well [default: none]
    #[arg(long, value_name = "WHICH", help_heading = LORA, conflicts_with = "adapter")]
    pub bias: Option<BiasName>,
    /// Ranks of single modules
    #[arg(long, value_name = "MODULE=RANK", value_delimiter = ',', value_parser = pair::<usize>, help_heading = LORA, conflicts_with = "adapter")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of single modules
    #[arg(long, value_name = "MODULE=ALPHA", value_delimiter = ',', value_parser = pair::<f64>, help_heading = LORA, conflicts_with = "adapter")]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Initial values of the factors: kaiming (A uniform, B zero), gaussian (A normal, B zero), random (both, for tests), pissa, pissa_niter_N or olora (from the
    /// weights themselves) [default: kaiming]
    #[arg(long, value_name = "HOW", value_parser = lora_init, help_heading = LORA, conflicts_with = "adapter")]
    pub init_lora_weights: Option<LoraInit>,
    /// Tokens whose embeddings to train, for trainable_tokens and beside lora
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', help_heading = SCOPE, conflicts_with = "adapter")]
    pub trainable_token_indices: Vec<usize>,

    /// Number of virtual tokens [default: 20]
    #[arg(long, value_name = "TOKENS", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub num_virtual_tokens: Option<usize>,
    /// Compute the prefix by a two-layer network (prefix_tuning always does, p_tuning_v2 never)
    #[arg(long, help_heading = PROMPTS, conflicts_with = "adapter")]
    pub prefix_projection: bool,
    /// Width of the network that computes the prompt or prefix [default: the model's]
    #[arg(long, value_name = "WIDTH", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub encoder_hidden_size: Option<usize>,
    /// The network that computes the prompt of p_tuning [default: mlp]
    #[arg(long, value_name = "NETWORK", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub encoder_reparameterization_type: Option<NetworkName>,
    /// Number of layers of that LSTM [default: 2]
    #[arg(long, value_name = "LAYERS", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub encoder_num_layers: Option<usize>,
    /// Initial values of the prompt or prefix [default: vocab for prompt_tuning; random for prefix_tuning and p_tuning_v2, which also take text]
    #[arg(long, value_name = "HOW", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub prompt_init: Option<PromptInitName>,
    /// Where virtual tokens are put in a model that multiplies embeddings with a number: before (they are multiplied, too) or after that
    /// [default: as the graph's names or config.json beside it tell]
    #[arg(long, value_name = "SIDE", help_heading = PROMPTS)]
    pub prompt_scale: Option<PromptScaleName>,
    /// The text whose embeddings (or keys and values) the prompt (or prefix) starts from
    #[arg(long, value_name = "TEXT", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub prompt_init_text: Option<String>,

    /// Targets of ia3 whose input is scaled, not their output
    #[arg(long, value_name = "MODULES", help_heading = SCOPE, conflicts_with = "adapter")]
    pub feedforward_modules: Option<String>,
}

/// Names of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum MethodName {
    /// Low-rank updates of projections
    Lora,
    /// Learned embeddings in front of the tokens
    #[value(alias = "prompt-tuning")]
    PromptTuning,
    /// Learned keys and values in front of every layer's, computed by a small network
    #[value(alias = "prefix-tuning")]
    PrefixTuning,
    /// Learned keys and values in front of every layer's
    #[value(name = "p_tuning_v2", aliases = ["p-tuning-v2", "ptuning-v2", "ptuningv2"])]
    PTuningV2,
    /// Learned embeddings in front of the tokens, computed by a small network
    #[value(name = "p_tuning", aliases = ["p-tuning", "ptuning"])]
    PTuning,
    /// Learned factors of activations
    Ia3,
    /// Rows of the embedding (--trainable-token-indices)
    #[value(alias = "trainable-tokens")]
    TrainableTokens,
    /// Some of the base's own modules (--modules-to-save)
    Head,
    /// Normalisation layers
    #[value(alias = "ln-tuning")]
    LnTuning,
    /// Learned scales of shared random projections
    Vera,
    /// Hadamard products of two low-rank matrices
    Loha,
    /// Kronecker products
    Lokr,
    /// LoRA with --use-dora
    #[value(hide = true)]
    Dora,
    /// LoRA with --use-rslora
    #[value(hide = true)]
    Rslora,
    /// LoRA with --init-lora-weights pissa
    #[value(hide = true)]
    Pissa,
    /// LoRA with --init-lora-weights olora
    #[value(hide = true)]
    Olora,
}

impl MethodName {
    /// How the factors start where the method is LoRA under the name of its start.
    fn start(self) -> Option<LoraInit> {
        match self {
            Self::Pissa => Some(LoraInit::Pissa { iterations: None }),
            Self::Olora => Some(LoraInit::Olora),
            _ => None,
        }
    }
}

/// Which biases are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum BiasName {
    /// None
    None,
    /// Every bias of the base
    All,
    /// The biases of the adapted modules
    LoraOnly,
}

/// What computes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkName {
    /// Three linear layers
    Mlp,
    /// A bidirectional LSTM and two linear layers
    Lstm,
}

/// A side of the number that embeddings are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptScaleName {
    /// Virtual tokens are multiplied, too
    Before,
    /// They are not
    After,
}

impl From<PromptScaleName> for PromptScale {
    fn from(name: PromptScaleName) -> Self {
        match name {
            PromptScaleName::Before => Self::Before,
            PromptScaleName::After => Self::After,
        }
    }
}

/// How a prompt starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptInitName {
    /// Normally distributed values
    Random,
    /// Embeddings of random tokens
    Vocab,
    /// Embeddings of the tokens of --prompt-init-text
    Text,
}

/// A start by PEFT's name for it.
fn lora_init(name: &str) -> Result<LoraInit> {
    match name {
        "kaiming" | "true" | "True" => Ok(LoraInit::Kaiming),
        "gaussian" => Ok(LoraInit::Gaussian),
        "random" | "false" | "False" => Ok(LoraInit::Random),
        "pissa" => Ok(LoraInit::Pissa { iterations: None }),
        "olora" => Ok(LoraInit::Olora),
        other => match other.strip_prefix("pissa_niter_").map(str::parse) {
            Some(Ok(iterations)) => Ok(LoraInit::Pissa { iterations: Some(iterations) }),
            _ => Err(Error::mismatch("start", "kaiming, gaussian, random, pissa, pissa_niter_N or olora", other)),
        },
    }
}

fn pair<T: std::str::FromStr>(text: &str) -> Result<(String, T)> {
    let wrong = || Error::mismatch("a value for a module", "MODULE=NUMBER", text);
    let (key, value) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((key.to_owned(), value.parse().map_err(|_| wrong())?))
}

impl MethodArgs {
    /// The method as it is configured.
    ///
    /// # Errors
    /// If options contradict each other.
    pub fn method(&self) -> Result<Method> {
        let name = self.method.ok_or_else(|| Error::invalid("neither --method nor --adapter is given"))?;
        let (scope, tokens) = (self.scope(), self.num_virtual_tokens.unwrap_or(20));
        let modules_to_save = self.modules_to_save.clone();
        let method = match name {
            MethodName::Lora | MethodName::Dora | MethodName::Rslora | MethodName::Pissa | MethodName::Olora => {
                Method::Lora(self.lora(name, scope)?)
            }
            MethodName::PromptTuning => Method::Prompt(PromptConfig {
                num_virtual_tokens: tokens,
                init: self.prompt_init()?,
                modules_to_save,
                ..PromptConfig::default()
            }),
            MethodName::PrefixTuning | MethodName::PTuningV2 => Method::Prefix(PrefixConfig {
                num_virtual_tokens: tokens,
                prefix_projection: name == MethodName::PrefixTuning || self.prefix_projection,
                encoder_hidden_size: self.encoder_hidden_size,
                init: self.prefix_init()?,
                modules_to_save,
                ..PrefixConfig::default()
            }),
            MethodName::PTuning => Method::PromptEncoder(PromptEncoderConfig {
                num_virtual_tokens: tokens,
                reparameterization: match self.encoder_reparameterization_type {
                    None | Some(NetworkName::Mlp) => Reparameterization::Mlp,
                    Some(NetworkName::Lstm) => Reparameterization::Lstm,
                },
                encoder_num_layers: self.encoder_num_layers.unwrap_or(2),
                encoder_hidden_size: self.encoder_hidden_size,
                modules_to_save,
                ..PromptEncoderConfig::default()
            }),
            MethodName::Ia3 => Method::Ia3(Ia3Config {
                scope,
                feedforward: self.feedforward_modules.as_deref().map(Selection::from_text),
                ..Ia3Config::default()
            }),
            MethodName::TrainableTokens => Method::TrainableTokens(TokensConfig {
                targets: self.target_modules.as_deref().map(Selection::from_text),
                rows: self.rows(),
            }),
            MethodName::Head => Method::Head(HeadConfig { modules_to_save }),
            MethodName::LnTuning => Method::LnTuning(LnTuningConfig { scope }),
            MethodName::Vera => Method::Vera(VeraConfig {
                scope,
                rank: self.rank.unwrap_or(256),
                dropout: self.dropout.unwrap_or(0.0),
                ..VeraConfig::default()
            }),
            MethodName::Loha => Method::Loha(self.product(scope)),
            MethodName::Lokr => Method::Lokr(LokrConfig { product: self.product(scope), ..LokrConfig::default() }),
        };
        method.check()?;
        Ok(method)
    }

    fn scope(&self) -> Scope {
        Scope {
            targets: self.target_modules.as_deref().map_or(Targets::Default, Targets::from_text),
            exclude: self.exclude_modules.as_deref().map(Selection::from_text),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: self.modules_to_save.clone(),
        }
    }

    fn rank_and_alpha(&self) -> (usize, f64) {
        let rank = self.rank.unwrap_or(8);
        (rank, self.alpha.unwrap_or_else(|| 2.0 * f64::from(u32::try_from(rank).unwrap_or(u32::MAX))))
    }

    fn lora(&self, name: MethodName, scope: Scope) -> Result<LoraConfig> {
        let (rank, alpha) = self.rank_and_alpha();
        let init = match (name.start(), &self.init_lora_weights) {
            (Some(LoraInit::Pissa { .. }), Some(LoraInit::Pissa { iterations })) => LoraInit::Pissa { iterations: *iterations },
            (Some(named), Some(other)) if named != *other => {
                let hint = "name the start once: `--method lora --init-lora-weights HOW`";
                return Err(Error::invalid("--method and --init-lora-weights name two starts of LoRA").with_hint(hint));
            }
            (named, other) => named.or_else(|| other.clone()).unwrap_or_default(),
        };
        Ok(LoraConfig {
            scope,
            rank,
            alpha,
            dropout: self.dropout.unwrap_or(0.0),
            rank_pattern: self.rank_pattern.iter().cloned().collect(),
            alpha_pattern: self.alpha_pattern.iter().cloned().collect(),
            use_rslora: self.use_rslora || name == MethodName::Rslora,
            use_dora: self.use_dora || name == MethodName::Dora,
            bias: match self.bias {
                None | Some(BiasName::None) => Bias::None,
                Some(BiasName::All) => Bias::All,
                Some(BiasName::LoraOnly) => Bias::TargetsOnly,
            },
            init,
            trainable_token_indices: match self.rows() {
                rows if rows.is_empty() => IndexMap::new(),
                rows => IndexMap::from([("embed_tokens".to_owned(), rows)]),
            },
            ..LoraConfig::default()
        })
    }

    /// The rows that are trained, each once.
    fn rows(&self) -> Vec<usize> {
        let rows: std::collections::BTreeSet<usize> = self.trainable_token_indices.iter().copied().collect();
        rows.into_iter().collect()
    }

    fn prefix_init(&self) -> Result<PrefixInit> {
        match (self.prompt_init, &self.prompt_init_text) {
            (None | Some(PromptInitName::Random), None) => Ok(PrefixInit::Random),
            (None | Some(PromptInitName::Text), Some(text)) => Ok(PrefixInit::Text(text.clone())),
            (Some(PromptInitName::Vocab), _) => {
                Err(Error::invalid("a prefix starts from random numbers or a text, not from the vocabulary"))
            }
            (Some(PromptInitName::Text), None) => Err(Error::invalid("--prompt-init text needs --prompt-init-text")),
            (Some(PromptInitName::Random), Some(_)) => Err(Error::invalid("--prompt-init-text goes with --prompt-init text alone")),
        }
    }

    fn product(&self, scope: Scope) -> ProductConfig {
        let (rank, alpha) = self.rank_and_alpha();
        let patterns = (self.rank_pattern.iter().cloned().collect::<IndexMap<_, _>>(), self.alpha_pattern.iter().cloned().collect());
        ProductConfig { scope, rank, alpha, rank_pattern: patterns.0, alpha_pattern: patterns.1, ..ProductConfig::default() }
    }

    fn prompt_init(&self) -> Result<PromptInit> {
        match (self.prompt_init, &self.prompt_init_text) {
            (Some(PromptInitName::Random), None) => Ok(PromptInit::Random),
            (None | Some(PromptInitName::Vocab), None) => Ok(PromptInit::Vocabulary),
            (None | Some(PromptInitName::Text), Some(text)) => Ok(PromptInit::Text(text.clone())),
            (Some(PromptInitName::Text), None) => Err(Error::invalid("--prompt-init text needs --prompt-init-text")),
            (Some(_), Some(_)) => Err(Error::invalid("--prompt-init-text goes with --prompt-init text alone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lora_is_configured_as_it_was_asked() -> Result<()> {
        let args = MethodArgs {
            method: Some(MethodName::Lora),
            rank: Some(4),
            target_modules: Some("q_proj, v_proj".into()),
            rank_pattern: vec![pair("layers.0.q_proj=2")?],
            bias: Some(BiasName::LoraOnly),
            ..MethodArgs::default()
        };
        let Method::Lora(config) = args.method()? else { panic!("not LoRA") };
        assert_eq!((config.rank, config.bias), (4, Bias::TargetsOnly));
        assert!((config.alpha - 8.0).abs() < f64::EPSILON, "alpha is twice the rank by default");
        assert_eq!(config.scope.targets, Targets::Only(Selection::Names(vec!["q_proj".into(), "v_proj".into()])));
        assert_eq!(config.rank_pattern.get("layers.0.q_proj"), Some(&2));
        Ok(())
    }

    #[test]
    fn names_of_kinds_of_lora_are_lora_with_its_options() -> Result<()> {
        let of = |name, init| {
            let args = MethodArgs { method: Some(name), init_lora_weights: init, ..MethodArgs::default() };
            args.method().map(|method| if let Method::Lora(config) = method { config } else { panic!("not LoRA") })
        };
        assert!(of(MethodName::Dora, None)?.use_dora && of(MethodName::Rslora, None)?.use_rslora);
        assert_eq!(of(MethodName::Olora, None)?.init, LoraInit::Olora);
        let iterations = LoraInit::Pissa { iterations: Some(4) };
        assert_eq!(of(MethodName::Pissa, Some(iterations.clone()))?.init, iterations);
        assert!(of(MethodName::Pissa, Some(LoraInit::Olora)).is_err());
        Ok(())
    }

    #[test]
    fn every_method_has_the_name_of_its_configuration() -> Result<()> {
        for name in MethodName::value_variants() {
            let modules_to_save = vec!["classifier".into()];
            let args = MethodArgs { method: Some(*name), modules_to_save, trainable_token_indices: vec![1], ..MethodArgs::default() };
            let value = name.to_possible_value().expect("every method has a name");
            let expected = if value.is_hide_set() { "lora" } else { value.get_name() };
            assert_eq!(args.method()?.name(), expected);
        }
        assert!(pair::<usize>("a=b").is_err() && pair::<usize>("a").is_err());
        Ok(())
    }
}
