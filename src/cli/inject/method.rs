//! The options of methods.

use clap::builder::{PossibleValue, TypedValueParser, ValueParserFactory};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::Value;

use crate::adapter::Method;
use crate::adapter::config::options::{Options, PromptStart};
use crate::adapter::config::{Bias, Reparameterization, Scope, Selection, Targets};
use crate::adapter::method::Row;
use crate::adapter::methods;
use crate::adapter::methods::lora::LoraInit;
use crate::error::{Error, Result};
use crate::export::PromptScale;

const LORA: &str = "Low-rank methods";
const PROMPTS: &str = "Soft prompts";
const SCOPE: &str = "Where it attaches";

/// The method to add, and its options.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches, each on its own")]
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
    /// Allocate ranks while training, as PEFT's update_and_allocate does: modules that matter less keep fewer (--set total_step=N, tinit, tfinal, ..)
    #[arg(long, help_heading = LORA)]
    pub allocate_ranks: bool,
    /// Scale by alpha / sqrt(rank)
    #[arg(long, help_heading = LORA, conflicts_with = "adapter")]
    pub use_rslora: bool,
    /// Decompose weights into magnitude and direction
    #[arg(long, help_heading = LORA, conflicts_with = "adapter")]
    pub use_dora: bool,
    /// Biases of the base to train as well [default: none]
    #[arg(long, value_name = "WHICH", help_heading = LORA, conflicts_with = "adapter")]
    pub bias: Option<Bias>,
    /// Ranks of single modules
    #[arg(long, value_name = "MODULE=RANK", value_delimiter = ',', value_parser = pair::<usize>, help_heading = LORA, conflicts_with = "adapter")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of single modules
    #[arg(long, value_name = "MODULE=ALPHA", value_delimiter = ',', value_parser = pair::<f64>, help_heading = LORA, conflicts_with = "adapter")]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Initial values of the factors: kaiming (A uniform, B zero), gaussian (A normal, B zero), random (both, for tests), pissa, pissa_niter_N or olora (from the
    /// weights themselves) [default: kaiming]
    #[arg(long, value_name = "HOW", value_parser = lora_init, help_heading = LORA, conflicts_with = "adapter")]
    pub init_lora_weights: Option<String>,
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
    pub encoder_reparameterization_type: Option<Reparameterization>,
    /// Number of layers of that LSTM [default: 2]
    #[arg(long, value_name = "LAYERS", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub encoder_num_layers: Option<usize>,
    /// Initial values of the prompt or prefix [default: vocab for prompt_tuning; random for prefix_tuning and p_tuning_v2, which also take text]
    #[arg(long, value_name = "HOW", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub prompt_init: Option<PromptStart>,
    /// Where virtual tokens are put in a model that multiplies embeddings with a number: before (they are multiplied, too) or after that
    /// [default: as the graph's names or config.json beside it tell]
    #[arg(long, value_name = "SIDE", help_heading = PROMPTS)]
    pub prompt_scale: Option<PromptScale>,
    /// The text whose embeddings (or keys and values) the prompt (or prefix) starts from
    #[arg(long, value_name = "TEXT", help_heading = PROMPTS, conflicts_with = "adapter")]
    pub prompt_init_text: Option<String>,

    /// Any other setting of the method, by the name that it has in PEFT's configuration: --set oft_block_size=16 --set init_weights=mini
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting, help_heading = SCOPE, conflicts_with = "adapter")]
    pub settings: Vec<(String, Value)>,

    /// Targets of ia3 whose input is scaled, not their output
    #[arg(long, value_name = "MODULES", help_heading = SCOPE, conflicts_with = "adapter")]
    pub feedforward_modules: Option<String>,
}

/// A method, by the name that was typed for it.
#[derive(Clone, Copy, Debug)]
pub struct MethodName(&'static str);

impl MethodName {
    /// The method of a name.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let row = methods::named(text)?;
        let mut names = [row.name].into_iter().chain(row.aliases.iter().copied()).chain(row.variants.iter().copied());
        names.find(|name| name.eq_ignore_ascii_case(text)).map(Self)
    }
}

impl ValueParserFactory for MethodName {
    type Parser = Names;

    fn value_parser() -> Names {
        Names
    }
}

/// Reads the name of a method: the rows of the table are the values that there are.
#[derive(Clone, Copy, Debug)]
pub struct Names;

impl TypedValueParser for Names {
    type Value = MethodName;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&clap::Arg>, value: &std::ffi::OsStr) -> Result<MethodName, clap::Error> {
        let text = value.to_string_lossy();
        MethodName::find(&text).ok_or_else(|| {
            let mut error = clap::Error::new(ErrorKind::InvalidValue).with_cmd(command);
            let names: Vec<String> = methods::all().iter().map(|row| row.name.to_owned()).collect();
            let nearest = names.iter().max_by(|a, b| strsim::jaro(&text, a).total_cmp(&strsim::jaro(&text, b)));
            if let Some(nearest) = nearest.filter(|name| strsim::jaro(&text, name) > 0.7) {
                error.insert(ContextKind::SuggestedValue, ContextValue::String(nearest.clone()));
            }
            if let Some(arg) = arg {
                error.insert(ContextKind::InvalidArg, ContextValue::String(arg.to_string()));
            }
            error.insert(ContextKind::InvalidValue, ContextValue::String(text.into_owned()));
            error.insert(ContextKind::ValidValue, ContextValue::Strings(names));
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let shown = |row: &&'static Row| PossibleValue::new(row.name).help(row.about).aliases(row.aliases);
        let hidden = |row: &&'static Row| row.variants.iter().map(|name| PossibleValue::new(*name).hide(true)).collect::<Vec<_>>();
        let rows = methods::all();
        let values: Vec<PossibleValue> = rows.iter().map(shown).chain(rows.iter().flat_map(hidden)).collect();
        Some(Box::new(values.into_iter()))
    }
}

/// A start by PEFT's name for it.
fn lora_init(name: &str) -> Result<String> {
    name.parse::<LoraInit>().map(|_| name.to_owned())
}

/// A setting and its value: as JSON where it is that, else a text.
fn setting(text: &str) -> Result<(String, Value)> {
    let (name, value) = text.split_once('=').ok_or_else(|| Error::mismatch("a setting", "NAME=VALUE", text))?;
    let plain = match value {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    Ok((name.trim().replace('-', "_"), serde_json::from_str(plain).unwrap_or_else(|_| Value::String(value.to_owned()))))
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
        methods::configure(&self.options(name))
    }

    fn options(&self, name: MethodName) -> Options {
        Options {
            name: name.0.to_owned(),
            scope: self.scope(),
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            allocate_ranks: self.allocate_ranks,
            rank_pattern: self.rank_pattern.iter().cloned().collect(),
            alpha_pattern: self.alpha_pattern.iter().cloned().collect(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            bias: self.bias.unwrap_or_default(),
            init_lora_weights: self.init_lora_weights.clone(),
            trainable_token_indices: self.trainable_token_indices.clone(),
            feedforward: self.feedforward_modules.as_deref().map(Selection::from_text),
            num_virtual_tokens: self.num_virtual_tokens,
            prefix_projection: self.prefix_projection,
            encoder_hidden_size: self.encoder_hidden_size,
            reparameterization: self.encoder_reparameterization_type,
            encoder_num_layers: self.encoder_num_layers,
            prompt_init: self.prompt_init,
            prompt_init_text: self.prompt_init_text.clone(),
            settings: self.settings.iter().cloned().collect(),
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::methods::lora::LoraConfig;

    fn named(name: &str) -> MethodName {
        MethodName::find(name).expect("a name of the table")
    }

    #[test]
    fn lora_is_configured_as_it_was_asked() -> Result<()> {
        let args = MethodArgs {
            method: Some(named("lora")),
            rank: Some(4),
            target_modules: Some("q_proj, v_proj".into()),
            rank_pattern: vec![pair("layers.0.q_proj=2")?],
            bias: Some(Bias::TargetsOnly),
            ..MethodArgs::default()
        };
        let method = args.method()?;
        let config = method.get::<LoraConfig>().expect("LoRA");
        assert_eq!((config.rank, config.bias), (4, Bias::TargetsOnly));
        assert!((config.alpha - 8.0).abs() < f64::EPSILON, "alpha is twice the rank by default");
        assert_eq!(config.scope.targets, Targets::Only(Selection::Names(vec!["q_proj".into(), "v_proj".into()])));
        assert_eq!(config.rank_pattern.get("layers.0.q_proj"), Some(&2));
        Ok(())
    }

    #[test]
    fn names_of_kinds_of_lora_are_lora_with_its_options() -> Result<()> {
        let of = |name, init: Option<&str>| {
            let args = MethodArgs { method: Some(named(name)), init_lora_weights: init.map(str::to_owned), ..MethodArgs::default() };
            args.method().map(|method| method.get::<LoraConfig>().expect("LoRA").clone())
        };
        assert!(of("dora", None)?.use_dora && of("rslora", None)?.use_rslora);
        assert_eq!(of("olora", None)?.init, LoraInit::Olora);
        assert_eq!(of("pissa", Some("pissa_niter_4"))?.init, LoraInit::Pissa { iterations: Some(4) });
        assert!(of("pissa", Some("olora")).is_err());
        Ok(())
    }

    #[test]
    fn every_method_has_the_name_of_its_configuration() -> Result<()> {
        for row in methods::METHODS {
            for name in [row.name].iter().chain(row.aliases).chain(row.variants) {
                let trainable_token_indices = if row.name == "trainable_tokens" { vec![1] } else { vec![] };
                let args = MethodArgs { method: Some(named(name)), trainable_token_indices, ..MethodArgs::default() };
                assert_eq!(args.method()?.name(), row.name, "{name}");
            }
        }
        assert!(pair::<usize>("a=b").is_err() && pair::<usize>("a").is_err());
        Ok(())
    }

    #[test]
    fn any_setting_of_a_method_can_be_set_and_no_other() -> Result<()> {
        let with = |name, text: &str| {
            let args = MethodArgs { method: Some(named(name)), settings: vec![setting(text)?], ..MethodArgs::default() };
            args.method()
        };
        let read = |method: &Method| {
            let mut settings = crate::adapter::config::settings::Settings::default();
            method.write(&mut settings);
            settings.0
        };
        assert_eq!(read(&with("vera", "d_initial=0.5")?)["d_initial"], 0.5);
        assert_eq!(read(&with("lokr", "decompose-both=True")?)["decompose_both"], true);
        for (name, text) in [("vera", "d_inital=0.5"), ("loha", "decompose_both=true"), ("vera", "d_initial=far")] {
            assert!(with(name, text).is_err(), "{name} {text}");
        }
        // What would change nothing of a fresh adapter.
        let idle = [
            ("loha", "init_weights=false"),
            ("ia3", "init_ia3_weights=false"),
            ("oft", "eps=0.1"),
            ("lora", "megatron_core=core"),
            ("lora", "use_effective_conv2d=true"),
            ("adalora", "r=4"),
            ("prompt_tuning", "token_dim=3"),
            ("prompt_tuning", "prompt_tuning_init_text=words"),
        ];
        for (name, text) in idle {
            assert!(with(name, text).is_err_and(|error| error.hint().is_some()), "{name} {text}");
        }
        // What says how it is anyway.
        let plain = [
            ("loha", "init_weights=true"),
            ("lokr", "decompose_both=false"),
            ("fourierft", "scaling=150"),
            ("oft", "coft=false"),
            ("lora", "rank_pattern={}"),
        ];
        for (name, text) in plain {
            with(name, text)?;
        }
        assert!(setting("alone").is_err());
        Ok(())
    }
}
