//! `adapter_config.json`.
//!
//! Training some of the base's modules and nothing else is written as a LoRA without targets, which PEFT loads:
//! `{"peft_type": "LORA", "target_modules": "dummy-target-modules", "modules_to_save": [...]}`; `{"peft_type": null, "method": "HEAD",
//! "modules_to_save": [...]}` is read as well. And `"new_head": {"layers": [...], "num_labels": .., "pooling": ..}` says
//! that the base of the adapter is a body with a head put on it; PEFT ignores that setting with a warning.

mod head;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::adapter::Method;
use crate::adapter::config::fields::Fields;
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{NewHead, Task};
use crate::adapter::methods;
use crate::error::{Error, Result};
use crate::files::json::object;

/// What an adapter's configuration says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The method and its options.
    pub method: Method,
    /// The task, where the file tells: PEFT leaves it out for masked language models and images.
    pub task: Option<Task>,
    /// The name or path of the base, as PEFT wrote it.
    pub base_model: Option<String>,
    /// The head that was put on the base for the adapter; PEFT's models have theirs from the start.
    pub new_head: Option<NewHead>,
    /// All settings of the file that this was read from; those that are not known here are written again.
    original: Map<String, Value>,
}

/// Settings of every method that say nothing about the computation.
const COMMON: &[&str] = &["auto_mapping", "peft_type", "peft_version", "revision", "inference_mode", "runtime_config", "method"];

impl AdapterConfig {
    /// The configuration of a new adapter.
    #[must_use]
    pub fn new(method: Method, task: Option<Task>, base_model: Option<String>) -> Self {
        Self { method, task, base_model, new_head: None, original: Map::new() }
    }

    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// If it is not JSON, if a setting has a value that it cannot have, or if a setting changes the computation in a way that is not known here.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let original = object(text, "an adapter configuration")?;
        let fields = Fields::new(&original);
        fields.inert(COMMON);
        let peft_type = match (fields.text("peft_type")?, fields.text("method")?) {
            (Some(peft_type), _) => peft_type,
            (None, Some(method)) => method,
            (None, None) => return Err(Error::not_found("setting", "peft_type").with_hint("this is not PEFT's adapter_config.json")),
        };
        let method = (methods::of_peft_type(peft_type)?.read)(&fields)?;
        method.check()?;
        let task = fields.text("task_type")?.and_then(Task::from_task_type);
        let base_model = fields.text("base_model_name_or_path")?.map(str::to_owned);
        let new_head = head::read(&fields)?;
        let unread = fields.unread();
        if !unread.is_empty() {
            tracing::warn!("adapter_config.json has settings that are not known here and are ignored: {}", unread.join(", "));
        }
        Ok(Self { method, task, base_model, new_head, original })
    }

    /// Whether adapters of modules that share a weight are to be tied as well. Where none is adapted, it says nothing.
    #[must_use]
    pub fn ensures_weight_tying(&self) -> bool {
        self.original.get("ensure_weight_tying") == Some(&Value::Bool(true))
    }

    /// The text of an `adapter_config.json`: settings in the order of their names, as PEFT writes them.
    ///
    /// What this configuration says is written, settings of newer versions of PEFT only where they differ from the default; so is what the
    /// file that it was read from had beside.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut settings = Settings(self.original.clone());
        settings.put("peft_type", self.method.row().peft_type);
        let task_type = match self.task {
            Some(task) => json!(self.method.task_type(task)),
            None => self.original.get("task_type").cloned().unwrap_or(Value::Null),
        };
        settings.put("task_type", task_type);
        settings.put("base_model_name_or_path", json!(self.base_model));
        settings.put("inference_mode", true);
        settings.put_unless(head::FIELD, head::write(self.new_head.as_ref()), &Value::Null);
        settings.add("auto_mapping", Value::Null);
        settings.add("revision", Value::Null);
        self.method.write(&mut settings);
        // Only the settings are sorted: the order of patterns is the order in which they are tried.
        let sorted: BTreeMap<String, Value> = settings.0.into_iter().collect();
        format!("{:#}\n", Value::Object(sorted.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::config::{Selection, Targets};
    use crate::adapter::methods::lora::{LoraConfig, LoraInit};

    /// Configurations as PEFT writes them, the shortest and with everything, one a line.
    const CONFIGS: &[&str] = &[
        r#"{"peft_type":"LORA","target_modules":["q_proj","v_proj"]}"#,
        r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear","task_type":"CAUSAL_LM","base_model_name_or_path":"hf"}"#,
        r#"{"peft_type":"LORA","r":16,"lora_alpha":32,"lora_dropout":0.05,"target_modules":".*\\.(q|v)_proj","exclude_modules":["lm_head"],
            "rank_pattern":{"v_proj":2,"q_proj":4},"alpha_pattern":{"^model.*v_proj":1.5},"use_rslora":true,"use_dora":true,"bias":"lora_only",
            "modules_to_save":["classifier","score"],"init_lora_weights":"gaussian","fan_in_fan_out":true,
            "trainable_token_indices":{"embed_tokens":[0,3]},"task_type":"SEQ_CLS"}"#,
        r#"{"peft_type":"LORA","target_modules":["c_attn"],"layers_to_transform":[0,2],"layers_pattern":["h"],"lora_bias":true,"init_lora_weights":false}"#,
        r#"{"peft_type":"PROMPT_TUNING","num_virtual_tokens":8,"token_dim":64,"num_layers":2,"num_attention_heads":4,
            "num_transformer_submodules":1,"prompt_tuning_init":"SAMPLE_VOCAB","task_type":"CAUSAL_LM"}"#,
        r#"{"peft_type":"PROMPT_TUNING","num_virtual_tokens":8,"prompt_tuning_init":"TEXT","prompt_tuning_init_text":"a review:",
            "tokenizer_name_or_path":"gpt2"}"#,
        r#"{"peft_type":"PREFIX_TUNING","num_virtual_tokens":6,"prefix_projection":true,"encoder_hidden_size":48,"token_dim":32,"num_layers":2}"#,
        r#"{"peft_type":"PREFIX_TUNING","num_virtual_tokens":6,"modules_to_save":["classifier"],"task_type":"SEQ_CLS"}"#,
        r#"{"peft_type":"P_TUNING","num_virtual_tokens":6,"encoder_reparameterization_type":"LSTM","encoder_hidden_size":48,"encoder_dropout":0.1}"#,
        r#"{"peft_type":"IA3","target_modules":["k_proj","v_proj","down_proj"],"feedforward_modules":["down_proj"]}"#,
        r#"{"peft_type":"TRAINABLE_TOKENS","target_modules":["embed_tokens"],"token_indices":[3,5]}"#,
        r#"{"peft_type":"LN_TUNING","target_modules":["input_layernorm"]}"#,
        r#"{"peft_type":"VERA","r":16,"target_modules":["q_proj"],"d_initial":0.2,"projection_prng_key":7,"save_projection":false,"bias":"vera_only"}"#,
        r#"{"peft_type":"LOHA","r":4,"alpha":6,"target_modules":["q_proj"],"rank_pattern":{"q_proj":2},"rank_dropout":0.1,"module_dropout":0.2}"#,
        r#"{"peft_type":"LOKR","r":4,"alpha":8,"target_modules":["q_proj"],"decompose_both":true,"decompose_factor":4}"#,
        r#"{"peft_type":null,"method":"HEAD","modules_to_save":["classifier"]}"#,
        r#"{"peft_type":"LORA","target_modules":"dummy-target-modules","modules_to_save":["classifier"]}"#,
        r#"{"peft_type":"LORA","target_modules":["q"],"modules_to_save":["classifier"],"new_head":{"layers":[64,32],"num_labels":3,"pooling":"mean"}}"#,
    ];

    #[test]
    fn what_is_written_reads_as_the_same() -> Result<()> {
        for text in CONFIGS {
            let config = AdapterConfig::from_json(text.as_bytes())?;
            let again = AdapterConfig::from_json(config.to_json().as_bytes())?;
            assert_eq!((&again.method, again.task, &again.base_model), (&config.method, config.task, &config.base_model), "{text}");
            assert_eq!(again.new_head, config.new_head, "{text}");
            assert_eq!(config.new_head.is_some(), text.contains("new_head"), "{text}");
            let fresh = AdapterConfig::new(config.method.clone(), config.task, config.base_model.clone());
            if !text.contains("TEXT") {
                assert_eq!(AdapterConfig::from_json(fresh.to_json().as_bytes())?.method, config.method, "{text}");
            }
        }
        Ok(())
    }

    #[test]
    fn tasks_have_the_name_whose_class_in_peft_takes_the_method() -> Result<()> {
        let prompt = r#"{"peft_type":"PROMPT_TUNING","num_virtual_tokens":3}"#;
        let tokens = r#"{"peft_type":"TRAINABLE_TOKENS","target_modules":["embed_tokens"],"token_indices":[3]}"#;
        let lora = r#"{"peft_type":"LORA","target_modules":["q"]}"#;
        let rows = [
            (prompt, Task::MaskedLm, json!("FEATURE_EXTRACTION")),
            (prompt, Task::TokenCls, json!("TOKEN_CLS")),
            (tokens, Task::TokenCls, Value::Null),
            (tokens, Task::SeqCls, json!("SEQ_CLS")),
            (lora, Task::MaskedLm, Value::Null),
            (lora, Task::TokenCls, json!("TOKEN_CLS")),
        ];
        for (text, task, expected) in rows {
            let method = AdapterConfig::from_json(text.as_bytes())?.method;
            let written: Map<String, Value> = serde_json::from_str(&AdapterConfig::new(method, Some(task), None).to_json()).expect("JSON");
            assert_eq!(written["task_type"], expected, "{text} {task}");
        }
        Ok(())
    }

    #[test]
    fn names_that_are_repeated_count_once() -> Result<()> {
        let text = br#"{"peft_type":"LORA","target_modules":["v","q","v"],"modules_to_save":["classifier","score","classifier"]}"#;
        let method = AdapterConfig::from_json(text)?.method;
        let config = method.get::<LoraConfig>().expect("LoRA");
        assert_eq!(config.scope.modules_to_save, ["classifier", "score"]);
        assert_eq!(config.scope.targets, Targets::Only(Selection::Names(vec!["q".into(), "v".into()])));
        Ok(())
    }

    #[test]
    fn patterns_keep_their_order() -> Result<()> {
        let config = AdapterConfig::from_json(br#"{"peft_type":"LORA","target_modules":["q"],"rank_pattern":{"z":1,"a":2}}"#)?;
        let written = config.to_json();
        assert!(written.find("\"z\"") < written.find("\"a\""), "{written}");
        Ok(())
    }

    #[test]
    fn settings_that_are_not_known_survive() -> Result<()> {
        let text = br#"{"peft_type":"LORA","target_modules":["q"],"from_the_future":{"x":1},"inference_mode":false,"revision":"main"}"#;
        let written: Map<String, Value> = serde_json::from_str(&AdapterConfig::from_json(text)?.to_json()).expect("JSON");
        assert_eq!(written["from_the_future"], json!({"x": 1}));
        assert_eq!(written["revision"], json!("main"));
        assert_eq!(written["inference_mode"], json!(true));
        Ok(())
    }

    #[test]
    fn old_versions_of_peft_are_not_shown_what_they_refuse() {
        let config = AdapterConfig::new(LoraConfig::default().into(), Some(Task::CausalLm), None);
        let written: Map<String, Value> = serde_json::from_str(&config.to_json()).expect("JSON");
        // The settings of LoraConfig in PEFT 0.5.
        let known = [
            "alpha_pattern",
            "auto_mapping",
            "base_model_name_or_path",
            "bias",
            "fan_in_fan_out",
            "inference_mode",
            "init_lora_weights",
            "layers_pattern",
            "layers_to_transform",
            "lora_alpha",
            "lora_dropout",
            "modules_to_save",
            "peft_type",
            "r",
            "rank_pattern",
            "revision",
            "target_modules",
            "task_type",
        ];
        assert_eq!(written.keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn errors_name_the_setting() {
        let rows: &[(&str, &str)] = &[
            ("[1]", "not an adapter configuration"),
            ("{", "not an adapter configuration"),
            ("{}", "no setting named \"peft_type\""),
            (r#"{"peft_type":"BOFT"}"#, "peft_type \"BOFT\" is not supported"),
            (r#"{"peft_type":3}"#, "peft_type: expected a text, found 3"),
            (r#"{"peft_type":"LORA","r":0}"#, "r: expected at least 1, found 0"),
            (r#"{"peft_type":"LORA","r":-1}"#, "r: expected a whole number from 0, found -1"),
            (r#"{"peft_type":"LORA","r":"8"}"#, "r: expected a whole number from 0, found \"8\""),
            (r#"{"peft_type":"LORA","lora_dropout":1.5}"#, "lora_dropout: expected a number from 0 to below 1, found 1.5"),
            (r#"{"peft_type":"LORA","rank_pattern":{"q":0}}"#, "rank_pattern \"q\": expected at least 1"),
            (r#"{"peft_type":"LORA","bias":"some"}"#, "bias: expected none or all"),
            (r#"{"peft_type":"LORA","target_modules":[1]}"#, "target_modules: expected a list of names or a regular expression, found [1]"),
            (r#"{"peft_type":"LORA","use_dora":"yes"}"#, "use_dora: expected true or false"),
            (r#"{"peft_type":"LORA","layer_replication":[[0,2]]}"#, "layer_replication = [[0,2]] is not supported"),
            (r#"{"peft_type":"LORA","target_parameters":["w"]}"#, "target_parameters = [\"w\"] is not supported"),
            (r#"{"peft_type":"LORA","alora_invocation_tokens":[1]}"#, "alora_invocation_tokens = [1] is not supported"),
            (r#"{"peft_type":"LORA","init_lora_weights":"pissa_niter_4"}"#, "init_lora_weights = \"pissa_niter_4\" is not supported"),
            (r#"{"peft_type":"LORA","target_modules":"q","layers_to_transform":1}"#, "layers_to_transform cannot be used"),
            (r#"{"peft_type":"LORA","layers_pattern":"h"}"#, "layers_pattern is given without layers_to_transform"),
            (r#"{"peft_type":"LORA","lora_bias":true,"use_dora":true}"#, "lora_bias cannot be used with use_dora"),
            (r#"{"peft_type":"TRAINABLE_TOKENS"}"#, "number of token_indices: expected at least 1"),
            (r#"{"peft_type":"PROMPT_TUNING"}"#, "no setting named \"num_virtual_tokens\""),
            (r#"{"peft_type":null,"method":"HEAD"}"#, "modules_to_save names no module"),
            (
                r#"{"peft_type":"LORA","new_head":{"layers":[8],"pooling":"cls"}}"#,
                "new_head: expected an object with layers, num_labels and pooling",
            ),
            (r#"{"peft_type":"LORA","new_head":{"layers":[],"num_labels":0,"pooling":"cls"}}"#, "num_labels: expected at least 1"),
        ];
        for (text, expected) in rows {
            let error = AdapterConfig::from_json(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}\n  expected {expected}\n  found {error}");
        }
    }

    proptest! {
        #[test]
        fn mutated_files_do_not_panic(which in 0..CONFIGS.len(), places in prop::collection::vec((0_usize..600, any::<u8>()), 1..6), cut in 0_usize..600) {
            let mut bytes = CONFIGS[which].as_bytes().to_vec();
            for (place, byte) in places {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            bytes.truncate(cut.max(bytes.len() / 2));
            if let Ok(config) = AdapterConfig::from_json(&bytes) {
                let _ = config.to_json();
            }
        }
    }

    #[test]
    fn settings_at_their_defaults_are_inert() -> Result<()> {
        let text = br#"{"peft_type":"LORA","target_modules":["q"],"loftq_config":{},"megatron_core":"megatron.core","use_bdlora":null,
            "layer_replication":null,"qalora_group_size":16,"use_qalora":false,"eva_config":null,"init_lora_weights":"eva"}"#;
        let method = AdapterConfig::from_json(text)?.method;
        let config = method.get::<LoraConfig>().expect("LoRA");
        assert_eq!(config.init, LoraInit::FromFile("eva".into()));
        Ok(())
    }
}
