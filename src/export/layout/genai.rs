//! `genai_config.json` of onnxruntime-genai.

use serde_json::{Map, Value, json};

use super::config::text;
use super::{Layout, Source};
use crate::export::manifest::Port;
use crate::model::{Beside, declared};
use crate::{Error, Result};

/// The file.
pub(super) const FILE: &str = "genai_config.json";

/// The base's configuration, for the model of this folder.
pub(super) fn corrected(mut config: Value) -> Value {
    if let Some(decoder) = config.pointer_mut("/model/decoder") {
        decoder["filename"] = Layout::Genai.model().into();
    }
    config
}

/// A configuration of a decoder with a cache, by its inputs and outputs and `config.json`.
///
/// # Errors
/// A model without a cache, or one whose base has no `config.json`.
pub(super) fn config(source: &Source<'_>) -> Result<Value> {
    let refused = |why: &str| Error::unsupported("the layout genai of this model", why.to_owned());
    let beside = Beside::near(source.base);
    let Some(Value::Object(config)) = beside.json(declared::CONFIG)? else {
        let error = refused("config.json is not beside the base, which tells its sizes and tokens");
        return Err(error.with_hint("put the model's config.json beside it, or take another `layout`"));
    };
    let hint = "export the base with its cache: `optimum-cli export onnx --task text-generation-with-past`";
    let cache =
        Cache::of(source).ok_or_else(|| refused("it has no inputs and outputs for a cache, which writing needs").with_hint(hint))?;
    let generation = beside.json("generation_config.json")?.unwrap_or_default();
    let said = |name: &str| generation.get(name).or_else(|| config.get(name)).filter(|value| !value.is_null()).cloned();
    let number = |names: &[&str]| names.iter().find_map(|name| config.get(*name)).cloned().unwrap_or(Value::Null);
    let context = number(&["max_position_embeddings", "n_positions", "n_ctx", "seq_length"]);
    let heads = number(&["num_attention_heads", "n_head"]);
    let eos = said("eos_token_id").unwrap_or_default();
    let mut model = json!({
        "bos_token_id": said("bos_token_id").or_else(|| first(&eos)).unwrap_or_default(),
        "context_length": context,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": Layout::Genai.model(),
            "head_size": cache.head_size,
            "hidden_size": number(&["hidden_size", "n_embd", "d_model"]),
            "inputs": inputs(source, &cache),
            "outputs": {"logits": "logits", "present_key_names": cache.present[0], "present_value_names": cache.present[1]},
            "num_attention_heads": heads,
            "num_hidden_layers": cache.layers,
            "num_key_value_heads": cache.heads.map_or(heads.clone(), Value::from),
        },
        "eos_token_id": eos.clone(),
        "pad_token_id": said("pad_token_id").or_else(|| first(&eos)).unwrap_or_default(),
        "type": text(&config, "model_type").unwrap_or("decoder"),
        "vocab_size": number(&["vocab_size"]),
    });
    if let Some(model) = model.as_object_mut() {
        model.retain(|_, value| !value.is_null());
    }
    Ok(json!({"model": model, "search": search(&generation, &context)}))
}

/// The first of several tokens that end a text.
fn first(tokens: &Value) -> Option<Value> {
    tokens.as_array().and_then(|all| all.first()).or(Some(tokens)).filter(|token| token.is_number()).cloned()
}

fn inputs(source: &Source<'_>, cache: &Cache) -> Value {
    let named = ["input_ids", "attention_mask", "position_ids"];
    let mut inputs: Map<String, Value> = named
        .iter()
        .filter(|name| source.inputs.iter().any(|port| port.name == **name))
        .map(|name| ((*name).to_owned(), (*name).into()))
        .collect();
    inputs.insert("past_key_names".into(), cache.past[0].clone().into());
    inputs.insert("past_value_names".into(), cache.past[1].clone().into());
    Value::Object(inputs)
}

/// How texts are written unless somebody says otherwise.
fn search(generation: &Value, context: &Value) -> Value {
    let said = |name: &str, usual: Value| generation.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(usual);
    json!({
        "diversity_penalty": 0.0,
        "do_sample": said("do_sample", false.into()),
        "early_stopping": true,
        "length_penalty": 1.0,
        "max_length": if context.is_null() { 2048.into() } else { context.clone() },
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": false,
        "repetition_penalty": said("repetition_penalty", json!(1.0)),
        "temperature": said("temperature", json!(1.0)),
        "top_k": said("top_k", 50.into()),
        "top_p": said("top_p", json!(1.0)),
    })
}

/// The names of a cache's inputs and outputs, with `%d` where the layer's number stands, and its sizes.
struct Cache {
    past: [String; 2],
    present: [String; 2],
    layers: usize,
    heads: Option<u64>,
    head_size: Value,
}

impl Cache {
    fn of(source: &Source<'_>) -> Option<Self> {
        let [past, present] = [pattern(source.inputs, "past")?, pattern(source.outputs, "present")?];
        let first = source.inputs.iter().find(|port| port.name == past[0].replacen("%d", "0", 1))?;
        let layers = (0..).take_while(|layer| source.inputs.iter().any(|port| port.name == past[0].replacen("%d", &layer.to_string(), 1)));
        let layers = layers.count();
        // [batch, heads, past, head size]
        let axis = |at: usize| first.shape.get(at).cloned().unwrap_or_default();
        Some(Self { past, present, layers, heads: axis(1).as_u64(), head_size: axis(3) })
    }
}

/// The names of the keys and of the values of all layers: `past_key_values.%d.key`.
fn pattern(ports: &[Port], beginning: &str) -> Option<[String; 2]> {
    let of = |what: &str| {
        let is_one = |name: &str| name.starts_with(beginning) && name.contains('0') && name.replace("key_values", "").contains(what);
        ports.iter().find(|port| is_one(&port.name)).map(|port| port.name.replacen('0', "%d", 1))
    };
    Some([of("key")?, of("value")?])
}
