//! Every setting of PEFT's configurations, set to something else than its default: it is heeded, refused by its name, or known to change nothing.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;
use crate::adapter::config::fields::Fields;

/// Settings that are read and change nothing here, each with the reason; of every method that has them where none is named.
const INERT: &[(&str, &str, &str)] = &[
    ("", "ensure_weight_tying", "the reader of the folder compares the tensors"),
    ("", "loftq_config", "how an adapter was once started"),
    ("", "eva_config", "how an adapter was once started"),
    ("", "corda_config", "how an adapter was once started"),
    ("", "lora_ga_config", "how an adapter was once started"),
    ("", "megatron_core", "a module's name, for `megatron_config` alone"),
    ("", "qalora_group_size", "a size, for `use_qalora` alone"),
    ("", "runtime_config", "where PEFT computes"),
    ("", "use_effective_conv2d", "convolutions alone"),
    ("IA3", "init_ia3_weights", "how an adapter was once started"),
    ("LOHA", "init_weights", "how an adapter was once started"),
    ("LOKR", "init_weights", "how an adapter was once started"),
    ("PREFIX_TUNING", "init_weights", "how an adapter was once started"),
    ("PROMPT_TUNING", "tokenizer_name_or_path", "how an adapter was once started"),
    ("PROMPT_TUNING", "tokenizer_kwargs", "how an adapter was once started"),
    ("TRAINABLE_TOKENS", "init_weights", "how an adapter was once started"),
    ("VERA", "init_weights", "how an adapter was once started"),
    ("ADALORA", "r", "PEFT ignores it: `init_r` counts"),
    ("ADALORA", "alpha_pattern", "PEFT's AdaLoRA does not read it"),
    ("ADALORA", "use_rslora", "PEFT's AdaLoRA does not read it"),
];

/// A value that says something, in place of the default.
fn other(peft_type: &str, name: &str, default: &Value) -> Value {
    match (name, default) {
        ("rank_pattern", _) if peft_type == "ADALORA" => json!({"q_proj.lora_E": [true, false]}),
        ("rank_pattern" | "alpha_pattern" | "n_frequency_pattern", _) => json!({"q_proj": 3}),
        ("bias", _) => json!("all"),
        ("init_lora_weights", _) => json!("gaussian"),
        ("encoder_reparameterization_type", _) => json!("LSTM"),
        ("prompt_tuning_init", _) => json!("SAMPLE_VOCAB"),
        ("prompt_tuning_init_text" | "tokenizer_name_or_path", _) => json!("words"),
        ("token_indices" | "trainable_token_indices", _) => json!([2]),
        ("layers_to_transform", _) => json!([1]),
        ("init_weights", Value::Null) => json!("random"),
        ("variant", _) => json!("road_4"),
        ("use_bdlora", _) => json!({"target_modules_bd_a": ["q_proj"]}),
        (name, Value::Null) if name.starts_with("num_") => json!(1),
        (name, _) if name.ends_with("_config") || name.ends_with("kwargs") => json!({"a": 1}),
        (name, _)
            if name.ends_with("modules") || name.ends_with("pattern") || name.ends_with("parameters") || name == "modules_to_save" =>
        {
            json!(["v_proj"])
        }
        (name, _) if name.ends_with("tokens") && name != "num_virtual_tokens" || name == "layer_replication" => json!([[0, 1]]),
        (_, Value::Bool(value)) => json!(!value),
        (_, Value::Number(number)) => {
            number.as_i64().map_or_else(|| json!(number.as_f64().unwrap_or_default() / 2.0 + 0.0625), |number| json!(number + 2))
        }
        (_, Value::Null) => json!(3),
        (_, other) => json!(format!("not {other}")),
    }
}

/// What a configuration has at least.
fn least(peft_type: &str) -> Map<String, Value> {
    let least = match peft_type {
        "ADALORA" => json!({"total_step": 100}),
        "OFT" => json!({"r": 0, "oft_block_size": 32}),
        "TRAINABLE_TOKENS" => json!({"token_indices": [1]}),
        "PROMPT_TUNING" | "PREFIX_TUNING" | "P_TUNING" => json!({"num_virtual_tokens": 4}),
        _ => json!({}),
    };
    least.as_object().cloned().unwrap_or_default()
}

#[test]
fn every_setting_of_pefts_is_heeded_or_refused_or_known_to_change_nothing() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft_settings.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).expect("the file is there")).expect("JSON");
    let methods = file["settings"].as_object().expect("methods");
    // PEFT has no method for a head alone.
    assert!(METHODS.iter().all(|row| methods.contains_key(row.peft_type) || row.name == "head"), "a method is not in the file");
    let mut wrong = vec![];
    for (peft_type, settings) in methods {
        let read = |settings: &Map<String, Value>| {
            let fields = Fields::new(settings);
            fields.inert(&["runtime_config"]);
            let method = (of_peft_type(peft_type)?.read)(&fields).and_then(|method| method.check().map(|()| method))?;
            Ok::<_, Error>((method, fields.unread()))
        };
        let (plain, unread) = read(&least(peft_type)).expect("the least that a configuration has");
        assert_eq!(unread, Vec::<String>::new(), "{peft_type}");
        for (name, default) in settings.as_object().expect("settings") {
            let mut with = least(peft_type);
            match name.as_str() {
                "layers_pattern" => _ = with.insert("layers_to_transform".to_owned(), json!([1])),
                // One of the two is 0.
                "r" if peft_type == "OFT" => _ = with.insert("oft_block_size".to_owned(), json!(0)),
                "encoder_num_layers" => _ = with.insert("encoder_reparameterization_type".to_owned(), json!("LSTM")),
                "eps" if peft_type == "OFT" => _ = with.insert("coft".to_owned(), json!(true)),
                "feedforward_modules" => _ = with.insert("target_modules".to_owned(), json!(["v_proj"])),
                "prompt_tuning_init_text" => _ = with.insert("prompt_tuning_init".to_owned(), json!("TEXT")),
                _ => {}
            }
            let before = read(&with).map_or_else(|_| plain.clone(), |(method, _)| method);
            with.insert(name.clone(), other(peft_type, name, default));
            let is_inert = INERT.iter().any(|(of, known, _)| known == name && (of.is_empty() || of == peft_type));
            match read(&with) {
                Err(error) if error.to_string().contains(name.as_str()) => {}
                Err(error) => wrong.push(format!("{peft_type} {name}: refused without its name: {error}")),
                Ok((_, unread)) if !unread.is_empty() => wrong.push(format!("{peft_type} {name}: not read")),
                Ok((method, _)) if method == before && !is_inert => wrong.push(format!("{peft_type} {name}: read, and nothing of it")),
                Ok((method, _)) if method != before && is_inert => {
                    wrong.push(format!("{peft_type} {name}: heeded, though it is known to change nothing"));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
