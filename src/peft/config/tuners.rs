//! Settings of the methods that change modules (`peft/tuners/*/config.py`).

use serde_json::{Value, json};

use super::{Settings, list_or_null};
use crate::adapter::config::{
    Bias, HeadConfig, Ia3Config, LnTuningConfig, LokrConfig, LoraConfig, LoraInit, Method, ProductConfig, Scope, Selection, Targets,
    TokensConfig, VeraConfig,
};
use crate::error::{Error, Result};
use crate::peft::fields::{Fields, Flag, size, sizes};

/// Settings of LoRA that change the computation in a way that is not known here.
const LORA_REFUSED: &[(&str, &str)] = &[
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
const LORA_INERT: &[&str] =
    &["ensure_weight_tying", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"];

/// Values of `init_lora_weights` with which PEFT changes the base's own weights, or what is trained; longer ones may follow.
const INITS_THAT_CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// The biases that are trained beside a method, under its own name for "those of the targets".
const BIASES: &[(&str, Bias)] =
    &[("none", Bias::None), ("all", Bias::All), ("lora_only", Bias::TargetsOnly), ("vera_only", Bias::TargetsOnly)];

/// What PEFT takes for no target at all (`DUMMY_TARGET_MODULES` in `peft/utils/constants.py`): a LoRA of nothing trains what is saved as a whole.
const NO_TARGETS: &str = "dummy-target-modules";

/// Reads a LoRA, or the head alone that is written as one.
pub(super) fn read_lora_or_head(fields: &Fields<'_>) -> Result<Method> {
    let mut config = read_lora(fields)?;
    if fields.value("target_modules").and_then(Value::as_str) != Some(NO_TARGETS) {
        return Ok(Method::Lora(config));
    }
    config.scope.targets = Targets::Only(Selection::Names(vec![]));
    if config.trainable_token_indices.is_empty() { read_head(fields).map(Method::Head) } else { Ok(Method::Lora(config)) }
}

fn read_lora(fields: &Fields<'_>) -> Result<LoraConfig> {
    fields.inert(LORA_INERT);
    fields.refuse(LORA_REFUSED)?;
    let default = LoraConfig::default();
    Ok(LoraConfig {
        scope: read_scope(fields)?,
        rank: fields.size("r")?.unwrap_or(default.rank),
        alpha: fields.number("lora_alpha", default.alpha)?,
        dropout: fields.number("lora_dropout", default.dropout)?,
        rank_pattern: fields.by_name("rank_pattern", "ranks by name", size)?,
        alpha_pattern: fields.by_name("alpha_pattern", "alphas by name", Value::as_f64)?,
        use_rslora: fields.flag("use_rslora", Flag::Off)?,
        use_dora: fields.flag("use_dora", Flag::Off)?,
        bias: fields.one_of("bias", BIASES, Bias::None)?,
        lora_bias: fields.flag("lora_bias", Flag::Off)?,
        init: read_init(fields.value("init_lora_weights"))?,
        fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        trainable_token_indices: match fields.value("trainable_token_indices") {
            Some(Value::Array(_)) => [("embed_tokens".to_owned(), fields.sizes("trainable_token_indices")?)].into_iter().collect(),
            _ => fields.by_name("trainable_token_indices", "rows by name", sizes)?,
        },
    })
}

fn read_init(value: Option<&Value>) -> Result<LoraInit> {
    match value {
        None | Some(Value::Bool(true)) => Ok(LoraInit::Kaiming),
        Some(Value::Bool(false)) => Ok(LoraInit::Random),
        Some(Value::String(name)) => {
            let lower = name.to_lowercase();
            if INITS_THAT_CHANGE_THE_BASE.iter().any(|known| lower.starts_with(known)) {
                return Err(Error::unsupported(format!("init_lora_weights = {name:?}"), "it changes the base as well").with_hint(
                    "save the adapter with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=...)`, which makes it an ordinary one",
                ));
            }
            Ok(if lower == "gaussian" { LoraInit::Gaussian } else { LoraInit::FromFile(name.clone()) })
        }
        Some(other) => Err(Error::mismatch("init_lora_weights", "true, false or a name", other)),
    }
}

pub(super) fn write_lora(config: &LoraConfig, settings: &mut Settings) {
    write_scope(&config.scope, settings);
    write_layers(&config.scope, settings);
    settings.put("r", json!(config.rank));
    settings.put("lora_alpha", number(config.alpha));
    settings.put("lora_dropout", json!(config.dropout));
    settings.put("rank_pattern", json!(config.rank_pattern));
    settings.put("alpha_pattern", config.alpha_pattern.iter().map(|(name, &alpha)| (name.clone(), number(alpha))).collect());
    settings.put("bias", bias(config.bias, "lora_only"));
    settings.put("fan_in_fan_out", json!(config.fan_in_fan_out));
    settings.put(
        "init_lora_weights",
        match &config.init {
            LoraInit::Kaiming => json!(true),
            LoraInit::Random => json!(false),
            LoraInit::Gaussian => json!("gaussian"),
            LoraInit::Pissa { iterations: None } => json!("pissa"),
            LoraInit::Pissa { iterations: Some(iterations) } => json!(format!("pissa_niter_{iterations}")),
            LoraInit::Olora => json!("olora"),
            LoraInit::FromFile(name) => json!(name),
        },
    );
    settings.put_switch("use_rslora", config.use_rslora, Flag::Off);
    settings.put_switch("use_dora", config.use_dora, Flag::Off);
    settings.put_switch("lora_bias", config.lora_bias, Flag::Off);
    let rows = &config.trainable_token_indices;
    settings.put_unless("trainable_token_indices", if rows.is_empty() { Value::Null } else { json!(rows) }, &Value::Null);
}

pub(super) fn read_ia3(fields: &Fields<'_>) -> Result<Ia3Config> {
    fields.inert(&["init_ia3_weights"]);
    Ok(Ia3Config {
        scope: read_scope(fields)?,
        feedforward: fields.selection("feedforward_modules")?,
        fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
    })
}

pub(super) fn write_ia3(config: &Ia3Config, settings: &mut Settings) {
    write_scope(&config.scope, settings);
    settings.put("feedforward_modules", config.feedforward.as_ref().map_or(json!([]), selection));
    settings.put("fan_in_fan_out", json!(config.fan_in_fan_out));
}

pub(super) fn read_head(fields: &Fields<'_>) -> Result<HeadConfig> {
    let modules_to_save = fields.names("modules_to_save")?;
    if modules_to_save.is_empty() {
        return Err(Error::invalid("modules_to_save names no module, and this method trains nothing else"));
    }
    Ok(HeadConfig { modules_to_save })
}

pub(super) fn write_head(config: &HeadConfig, settings: &mut Settings) {
    settings.0.shift_remove("method");
    settings.put("target_modules", json!(NO_TARGETS));
    settings.put("modules_to_save", json!(config.modules_to_save));
}

pub(super) fn read_tokens(fields: &Fields<'_>) -> Result<TokensConfig> {
    fields.inert(&["init_weights"]);
    Ok(TokensConfig { targets: fields.selection("target_modules")?, rows: fields.sizes("token_indices")? })
}

pub(super) fn write_tokens(config: &TokensConfig, settings: &mut Settings) {
    settings.put("target_modules", config.targets.as_ref().map_or(Value::Null, selection));
    settings.put("token_indices", json!(config.rows));
}

pub(super) fn read_ln_tuning(fields: &Fields<'_>) -> Result<LnTuningConfig> {
    Ok(LnTuningConfig { scope: read_scope(fields)? })
}

pub(super) fn write_ln_tuning(config: &LnTuningConfig, settings: &mut Settings) {
    write_scope(&config.scope, settings);
}

pub(super) fn read_vera(fields: &Fields<'_>) -> Result<VeraConfig> {
    fields.inert(&["init_weights"]);
    let default = VeraConfig::default();
    Ok(VeraConfig {
        scope: read_scope(fields)?,
        rank: fields.size("r")?.unwrap_or(default.rank),
        dropout: fields.number("vera_dropout", default.dropout)?,
        d_initial: fields.number("d_initial", default.d_initial)?,
        projection_prng_key: fields.integer("projection_prng_key", default.projection_prng_key)?,
        save_projection: fields.flag("save_projection", Flag::On)?,
        bias: fields.one_of("bias", BIASES, Bias::None)?,
        fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
    })
}

pub(super) fn write_vera(config: &VeraConfig, settings: &mut Settings) {
    write_scope(&config.scope, settings);
    write_layers(&config.scope, settings);
    settings.put("r", json!(config.rank));
    settings.put("vera_dropout", json!(config.dropout));
    settings.put("d_initial", json!(config.d_initial));
    settings.put("projection_prng_key", json!(config.projection_prng_key));
    settings.put("save_projection", json!(config.save_projection));
    settings.put("bias", bias(config.bias, "vera_only"));
    settings.put("fan_in_fan_out", json!(config.fan_in_fan_out));
}

pub(super) fn read_product(fields: &Fields<'_>) -> Result<ProductConfig> {
    fields.inert(&["init_weights", "use_effective_conv2d"]);
    let default = ProductConfig::default();
    Ok(ProductConfig {
        scope: read_scope(fields)?,
        rank: fields.size("r")?.unwrap_or(default.rank),
        alpha: fields.number("alpha", default.alpha)?,
        rank_pattern: fields.by_name("rank_pattern", "ranks by name", size)?,
        alpha_pattern: fields.by_name("alpha_pattern", "alphas by name", Value::as_f64)?,
        rank_dropout: fields.number("rank_dropout", default.rank_dropout)?,
        module_dropout: fields.number("module_dropout", default.module_dropout)?,
    })
}

pub(super) fn write_product(config: &ProductConfig, settings: &mut Settings) {
    write_scope(&config.scope, settings);
    write_layers(&config.scope, settings);
    settings.put("r", json!(config.rank));
    settings.put("alpha", number(config.alpha));
    settings.put("rank_pattern", json!(config.rank_pattern));
    settings.put("alpha_pattern", config.alpha_pattern.iter().map(|(name, &alpha)| (name.clone(), number(alpha))).collect());
    settings.put("rank_dropout", json!(config.rank_dropout));
    settings.put("module_dropout", json!(config.module_dropout));
}

pub(super) fn read_lokr(fields: &Fields<'_>) -> Result<LokrConfig> {
    Ok(LokrConfig {
        product: read_product(fields)?,
        decompose_both: fields.flag("decompose_both", Flag::Off)?,
        decompose_factor: usize::try_from(fields.integer("decompose_factor", -1)?).ok(),
        rank_dropout_scale: fields.flag("rank_dropout_scale", Flag::Off)?,
    })
}

pub(super) fn write_lokr(config: &LokrConfig, settings: &mut Settings) {
    write_product(&config.product, settings);
    settings.put("decompose_both", json!(config.decompose_both));
    settings.put("decompose_factor", config.decompose_factor.map_or(json!(-1), |factor| json!(factor)));
    settings.put("rank_dropout_scale", json!(config.rank_dropout_scale));
}

fn read_scope(fields: &Fields<'_>) -> Result<Scope> {
    let layers_to_transform = fields.sizes("layers_to_transform")?;
    let layers_pattern = fields.names("layers_pattern")?;
    // An empty list of layers means all of them to PEFT; then there is nothing for the pattern to find.
    let all_layers = layers_to_transform.is_empty() && fields.value("layers_to_transform").is_some();
    Ok(Scope {
        targets: match fields.selection("target_modules")? {
            None => Targets::Default,
            Some(Selection::Regex(text)) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
            Some(selection) => Targets::Only(selection),
        },
        exclude: fields.selection("exclude_modules")?,
        layers_to_transform,
        layers_pattern: if all_layers { vec![] } else { layers_pattern },
        modules_to_save: fields.names("modules_to_save")?,
    })
}

fn write_scope(scope: &Scope, settings: &mut Settings) {
    let targets = match &scope.targets {
        Targets::Default | Targets::AllLinear => json!("all-linear"),
        Targets::Only(chosen) => selection(chosen),
    };
    settings.put("target_modules", targets);
    settings.put_unless("exclude_modules", scope.exclude.as_ref().map_or(Value::Null, selection), &Value::Null);
    settings.put("modules_to_save", list_or_null(&scope.modules_to_save));
}

fn write_layers(scope: &Scope, settings: &mut Settings) {
    settings.put("layers_to_transform", list_or_null(&scope.layers_to_transform));
    settings.put("layers_pattern", list_or_null(&scope.layers_pattern));
}

fn selection(selection: &Selection) -> Value {
    match selection {
        Selection::Names(names) => json!(names),
        Selection::Regex(regex) => json!(regex),
    }
}

fn bias(bias: Bias, targets_only: &str) -> Value {
    match bias {
        Bias::None => json!("none"),
        Bias::All => json!("all"),
        Bias::TargetsOnly => json!(targets_only),
    }
}

/// A number as Python writes it: whole ones without a fraction, since PEFT declares alphas as integers.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "checked to be whole and small")]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
