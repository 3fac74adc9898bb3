//! Settings of the prompt methods (`PromptLearningConfig` in `peft/config.py`, and `peft/tuners/{prompt_tuning,prefix_tuning,p_tuning}/config.py`).

use serde_json::{Value, json};

use super::{Settings, list_or_null};
use crate::adapter::config::{PrefixConfig, PrefixInit, PromptConfig, PromptEncoderConfig, PromptInit, PromptShape, Reparameterization};
use crate::error::{Error, Result};
use crate::peft::fields::{Fields, Flag};

const REPARAMETERIZATIONS: &[(&str, Reparameterization)] = &[("MLP", Reparameterization::Mlp), ("LSTM", Reparameterization::Lstm)];

/// Ways to start a prompt.
#[derive(Clone, Copy)]
enum Start {
    Random,
    Vocabulary,
    Text,
}

const STARTS: &[(&str, Start)] = &[("RANDOM", Start::Random), ("SAMPLE_VOCAB", Start::Vocabulary), ("TEXT", Start::Text)];

pub(super) fn read_prompt(fields: &Fields<'_>) -> Result<PromptConfig> {
    fields.inert(&["tokenizer_kwargs", "tokenizer_name_or_path"]);
    let text = fields.text("prompt_tuning_init_text")?.map(str::to_owned);
    Ok(PromptConfig {
        num_virtual_tokens: virtual_tokens(fields)?,
        init: match (fields.one_of("prompt_tuning_init", STARTS, Start::Random)?, text) {
            (Start::Vocabulary, _) => PromptInit::Vocabulary,
            (Start::Text, Some(text)) => PromptInit::Text(text),
            (Start::Random, _) | (Start::Text, None) => PromptInit::Random,
        },
        modules_to_save: fields.names("modules_to_save")?,
        shape: read_shape(fields)?,
    })
}

pub(super) fn write_prompt(config: &PromptConfig, settings: &mut Settings) {
    write_common(config.num_virtual_tokens, &config.shape, &config.modules_to_save, settings);
    // PEFT refuses TEXT without the name of a tokenizer, and does not look at it once there are weights.
    let has_tokenizer = settings.0.get("tokenizer_name_or_path").is_some_and(|name| !name.is_null());
    let (start, text) = match &config.init {
        PromptInit::Text(text) if has_tokenizer => ("TEXT", json!(text)),
        PromptInit::Random | PromptInit::Text(_) | PromptInit::Tokens(_) => ("RANDOM", Value::Null),
        PromptInit::Vocabulary => ("SAMPLE_VOCAB", Value::Null),
    };
    settings.put("prompt_tuning_init", json!(start));
    settings.put("prompt_tuning_init_text", text);
}

pub(super) fn read_prefix(fields: &Fields<'_>) -> Result<PrefixConfig> {
    fields.inert(&["init_weights"]);
    Ok(PrefixConfig {
        num_virtual_tokens: virtual_tokens(fields)?,
        prefix_projection: fields.flag("prefix_projection", Flag::Off)?,
        encoder_hidden_size: fields.size("encoder_hidden_size")?,
        init: PrefixInit::Random,
        modules_to_save: fields.names("modules_to_save")?,
        shape: read_shape(fields)?,
    })
}

pub(super) fn write_prefix(config: &PrefixConfig, settings: &mut Settings) {
    write_common(config.num_virtual_tokens, &config.shape, &config.modules_to_save, settings);
    settings.put("prefix_projection", json!(config.prefix_projection));
    settings.put("encoder_hidden_size", json!(config.encoder_hidden_size));
}

pub(super) fn read_encoder(fields: &Fields<'_>) -> Result<PromptEncoderConfig> {
    let default = PromptEncoderConfig::default();
    Ok(PromptEncoderConfig {
        num_virtual_tokens: virtual_tokens(fields)?,
        reparameterization: fields.one_of("encoder_reparameterization_type", REPARAMETERIZATIONS, Reparameterization::Mlp)?,
        encoder_hidden_size: fields.size("encoder_hidden_size")?,
        encoder_num_layers: fields.size("encoder_num_layers")?.unwrap_or(default.encoder_num_layers),
        encoder_dropout: fields.number("encoder_dropout", default.encoder_dropout)?,
        modules_to_save: fields.names("modules_to_save")?,
        shape: read_shape(fields)?,
    })
}

pub(super) fn write_encoder(config: &PromptEncoderConfig, settings: &mut Settings) {
    write_common(config.num_virtual_tokens, &config.shape, &config.modules_to_save, settings);
    let (name, _) = REPARAMETERIZATIONS.iter().find(|(_, kind)| *kind == config.reparameterization).expect("every kind has a row");
    settings.put("encoder_reparameterization_type", json!(name));
    settings.put("encoder_hidden_size", json!(config.encoder_hidden_size));
    settings.put("encoder_num_layers", json!(config.encoder_num_layers));
    settings.put("encoder_dropout", json!(config.encoder_dropout));
}

fn virtual_tokens(fields: &Fields<'_>) -> Result<usize> {
    fields.size("num_virtual_tokens")?.ok_or_else(|| Error::not_found("setting", "num_virtual_tokens"))
}

fn read_shape(fields: &Fields<'_>) -> Result<PromptShape> {
    Ok(PromptShape {
        token_dim: fields.size("token_dim")?,
        num_layers: fields.size("num_layers")?,
        num_attention_heads: fields.size("num_attention_heads")?,
        num_transformer_submodules: fields.size("num_transformer_submodules")?,
    })
}

fn write_common(num_virtual_tokens: usize, shape: &PromptShape, modules_to_save: &[String], settings: &mut Settings) {
    settings.put("num_virtual_tokens", json!(num_virtual_tokens));
    settings.put("token_dim", json!(shape.token_dim));
    settings.put("num_layers", json!(shape.num_layers));
    settings.put("num_attention_heads", json!(shape.num_attention_heads));
    settings.put("num_transformer_submodules", json!(shape.num_transformer_submodules));
    settings.put_unless("modules_to_save", list_or_null(modules_to_save), &Value::Null);
}
