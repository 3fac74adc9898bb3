//! How LoRA is configured (`LoraConfig` in `peft/tuners/lora/config.py`).

use std::str::FromStr;

use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::adapter::config::fields::{Fields, Flag, size};
use crate::adapter::config::options::Options;
use crate::adapter::config::settings::{Settings, number, numbers};
use crate::adapter::config::{Bias, Scope, at_least_one, finite, probability, scaling};
use crate::adapter::methods::trainable_tokens;
use crate::adapter::targets::Ranks;
use crate::error::{Error, Result};

/// Settings of LoRA that change the computation in a way that is not known here.
const REFUSED: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "activated LoRA is not known here"),
    ("arrow_config", "routing between adapters is not known here"),
    ("kasa_config", "KaSA is not known here"),
    ("layer_replication", "the layers of an exported graph are not replicated"),
    ("megatron_config", "Megatron's parallel layers are not known here"),
    ("monteclora_config", "MonteCLoRA is not known here"),
    ("target_parameters", "LoRA on bare parameters is not known here"),
    ("use_bdlora", "block-diagonal LoRA is not known here"),
    ("use_qalora", "QALoRA is not known here"),
    ("velora_config", "VeLoRA is not known here"),
];

/// Settings of LoRA that only say how an adapter was once started, or that others switch on.
const INERT: &[&str] =
    &["ensure_weight_tying", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"];

/// Values of `init_lora_weights` with which PEFT changes the base's own weights, or what is trained; longer ones may follow.
const INITS_THAT_CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

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

    /// Reads the setting of a file, whose base is as it is.
    fn read(value: Option<&Value>) -> Result<Self> {
        match value {
            None | Some(Value::Bool(true)) => Ok(Self::Kaiming),
            Some(Value::Bool(false)) => Ok(Self::Random),
            Some(Value::String(name)) => {
                let lower = name.to_lowercase();
                if INITS_THAT_CHANGE_THE_BASE.iter().any(|known| lower.starts_with(known)) {
                    return Err(Error::unsupported(format!("init_lora_weights = {name:?}"), "it changes the base as well").with_hint(
                        "save the adapter with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=...)`, which makes it an ordinary one",
                    ));
                }
                Ok(if lower == "gaussian" { Self::Gaussian } else { Self::FromFile(name.clone()) })
            }
            Some(other) => Err(Error::mismatch("init_lora_weights", "true, false or a name", other)),
        }
    }

    fn setting(&self) -> Value {
        match self {
            Self::Kaiming => json!(true),
            Self::Random => json!(false),
            Self::Gaussian => json!("gaussian"),
            Self::Pissa { iterations: None } => json!("pissa"),
            Self::Pissa { iterations: Some(iterations) } => json!(format!("pissa_niter_{iterations}")),
            Self::Olora => json!("olora"),
            Self::FromFile(name) => json!(name),
        }
    }
}

impl FromStr for LoraInit {
    type Err = Error;

    /// Reads what a user asks of a new adapter.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "kaiming" | "true" | "True" => Ok(Self::Kaiming),
            "gaussian" => Ok(Self::Gaussian),
            "random" | "false" | "False" => Ok(Self::Random),
            "pissa" => Ok(Self::Pissa { iterations: None }),
            "olora" => Ok(Self::Olora),
            other => match other.strip_prefix("pissa_niter_").map(str::parse) {
                Some(Ok(iterations)) if iterations <= MOST_ITERATIONS => Ok(Self::Pissa { iterations: Some(iterations) }),
                _ => Err(Error::mismatch("start", "kaiming, gaussian, random, pissa, pissa_niter_N (N up to 1000) or olora", other)),
            },
        }
    }
}

/// The most iterations by which singular vectors are sought; PEFT's documentation takes 4 and 16.
const MOST_ITERATIONS: usize = 1000;

/// The options of LoRA.
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
    /// Ranks and scales by module.
    #[must_use]
    pub fn ranks(&self) -> Ranks<'_> {
        Ranks {
            rank: self.rank,
            alpha: self.alpha,
            rank_pattern: &self.rank_pattern,
            alpha_pattern: &self.alpha_pattern,
            use_rslora: self.use_rslora,
        }
    }

    pub(super) fn checked(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        for (key, &rank) in &self.rank_pattern {
            at_least_one(&format!("rank_pattern {key:?}"), rank)?;
        }
        scaling("lora_alpha", self.alpha)?;
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

    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(INERT);
        fields.refuse(REFUSED)?;
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            rank: fields.size("r")?.unwrap_or(default.rank),
            alpha: fields.number("lora_alpha", default.alpha)?,
            dropout: fields.number("lora_dropout", default.dropout)?,
            rank_pattern: fields.by_name("rank_pattern", "ranks by name", size)?,
            alpha_pattern: fields.by_name("alpha_pattern", "alphas by name", Value::as_f64)?,
            use_rslora: fields.flag("use_rslora", Flag::Off)?,
            use_dora: fields.flag("use_dora", Flag::Off)?,
            bias: Bias::read(fields, "lora_only")?,
            lora_bias: fields.flag("lora_bias", Flag::Off)?,
            init: LoraInit::read(fields.value("init_lora_weights"))?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
            trainable_token_indices: trainable_tokens::read_beside(fields)?,
        })
    }

    pub(super) fn written(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.rank);
        settings.put("lora_alpha", number(self.alpha));
        settings.put("lora_dropout", self.dropout);
        settings.put("rank_pattern", json!(self.rank_pattern));
        settings.put("alpha_pattern", numbers(&self.alpha_pattern));
        settings.put("bias", self.bias.setting("lora_only"));
        settings.put("fan_in_fan_out", self.fan_in_fan_out);
        settings.put("init_lora_weights", self.init.setting());
        settings.put_switch("use_rslora", self.use_rslora, Flag::Off);
        settings.put_switch("use_dora", self.use_dora, Flag::Off);
        settings.put_switch("lora_bias", self.lora_bias, Flag::Off);
        trainable_tokens::write_beside(&self.trainable_token_indices, settings);
    }

    /// What a user asks for; the name may be that of a kind of LoRA (`dora`, `rslora`, `pissa`, `olora`).
    pub(super) fn asked(options: &Options) -> Result<Self> {
        let (rank, alpha) = options.rank_and_alpha(8);
        let name = options.name.to_lowercase();
        Ok(Self {
            scope: options.scope.clone(),
            rank,
            alpha,
            dropout: options.dropout.unwrap_or(0.0),
            rank_pattern: options.rank_pattern.clone(),
            alpha_pattern: options.alpha_pattern.clone(),
            use_rslora: options.use_rslora || name == "rslora",
            use_dora: options.use_dora || name == "dora",
            bias: options.bias,
            init: asked_init(&name, options.init_lora_weights.as_deref())?,
            trainable_token_indices: trainable_tokens::asked_beside(options),
            ..Self::default()
        })
    }
}

/// How the factors start where the method may be called by its start.
fn asked_init(name: &str, asked: Option<&str>) -> Result<LoraInit> {
    let named = match name {
        "pissa" => Some(LoraInit::Pissa { iterations: None }),
        "olora" => Some(LoraInit::Olora),
        _ => None,
    };
    match (named, asked.map(str::parse::<LoraInit>).transpose()?) {
        (Some(LoraInit::Pissa { .. }), Some(LoraInit::Pissa { iterations })) => Ok(LoraInit::Pissa { iterations }),
        (Some(named), Some(other)) if named != other => {
            let hint = "name the start once: `method lora` and `init_lora_weights HOW`";
            Err(Error::invalid("`method` and `init_lora_weights` name two starts of LoRA").with_hint(hint))
        }
        (named, other) => Ok(named.or(other).unwrap_or_default()),
    }
}
