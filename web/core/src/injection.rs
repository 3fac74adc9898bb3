//! What is asked of `inject`, as JSON: names and defaults are those of the command line's options.

use std::collections::BTreeMap;

use peft_onnx::adapter::config::options::Options;
use peft_onnx::adapter::config::{NewHead, Pooling, Scope, Selection, Targets, Task};
use peft_onnx::adapter::methods;
use peft_onnx::anatomy::TASKS;
use peft_onnx::export::AdapterSource;
use peft_onnx::export::objective::LossRequest;
use peft_onnx::train::recompute::Recompute;
use peft_onnx::{Adapter, Error, Injection, Result};
use serde::Deserialize;

/// What is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Asked {
    method: String,
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    layers_to_transform: Vec<usize>,
    modules_to_save: Vec<String>,
    rank: Option<usize>,
    alpha: Option<f64>,
    dropout: Option<f64>,
    use_rslora: bool,
    use_dora: bool,
    init_lora_weights: Option<String>,
    num_virtual_tokens: Option<usize>,
    trainable_token_indices: Vec<usize>,
    feedforward_modules: Option<Names>,
    set: serde_json::Map<String, serde_json::Value>,
    task: Option<String>,
    num_labels: Option<usize>,
    head_layers: Vec<usize>,
    pooling: Option<Pooling>,
    pub(crate) class_names: Vec<String>,
    base_model: Option<String>,
    loss: Option<String>,
    loss_option: BTreeMap<String, f64>,
    normalize: Option<bool>,
    matryoshka_dims: Vec<i64>,
    class_weights: Vec<f64>,
    label_smoothing: f64,
    recompute: String,
    seed: u64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    max_grad_norm: f64,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: "lora".to_owned(),
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: vec![],
            modules_to_save: vec![],
            rank: None,
            alpha: None,
            dropout: None,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: None,
            num_virtual_tokens: None,
            trainable_token_indices: vec![],
            feedforward_modules: None,
            set: serde_json::Map::new(),
            task: None,
            num_labels: None,
            head_layers: vec![],
            pooling: None,
            class_names: vec![],
            base_model: None,
            loss: None,
            loss_option: BTreeMap::new(),
            normalize: None,
            matryoshka_dims: vec![],
            class_weights: vec![],
            label_smoothing: 0.0,
            recompute: "none".to_owned(),
            seed: 42,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
        }
    }
}

/// Modules: a list, or a text as the command line takes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    Text(String),
    List(Vec<String>),
}

impl Names {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(names) => names.join(","),
        }
    }
}

impl Asked {
    /// Reads options.
    ///
    /// # Errors
    /// An option that is not known, or of another type.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let error = |why: serde_json::Error| Error::invalid(format!("options: {why}"));
        serde_json::from_str(text).map_err(error)
    }

    /// The injection, of a fresh adapter or of one that is there.
    ///
    /// # Errors
    /// Options that make no sense.
    pub(crate) fn injection(&self, adapter: Option<Adapter>) -> Result<Injection> {
        let adapter = match adapter {
            Some(adapter) => AdapterSource::Memory(adapter),
            None => AdapterSource::Fresh(methods::configure(&self.options())?),
        };
        let new_head =
            self.num_labels.map(|labels| NewHead { layers: self.head_layers.clone(), labels, pooling: self.pooling, modules: None });
        new_head.as_ref().map_or(Ok(()), NewHead::check)?;
        Ok(Injection {
            adapter,
            base_model: self.base_model.clone(),
            task: self.task.as_deref().map(task).transpose()?,
            new_head,
            loss: LossRequest {
                name: self.loss.clone(),
                options: self.loss_option.clone(),
                pooling: self.pooling,
                normalize: self.normalize,
                matryoshka: self.matryoshka_dims.clone(),
                class_weights: self.class_weights.clone(),
                label_smoothing: self.label_smoothing,
                ..LossRequest::default()
            },
            recompute: self.recompute.parse::<Recompute>()?,
            seed: self.seed,
            ..Injection::default()
        })
    }

    /// The optimizer's numbers by the names of the graphs' inputs.
    pub(crate) fn numbers(&self) -> [(&'static str, f64); 6] {
        let seed = f64::from(u32::try_from(self.seed).unwrap_or(u32::MAX));
        [
            ("weight_decay", self.weight_decay),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("adam_epsilon", self.adam_epsilon),
            ("max_grad_norm", self.max_grad_norm),
            ("dropout_seed", seed),
        ]
    }

    fn options(&self) -> Options {
        Options {
            name: self.method.clone(),
            scope: Scope {
                targets: self.target_modules.as_ref().map_or(Targets::Default, |names| Targets::from_text(&names.text())),
                exclude: self.exclude_modules.as_ref().map(|names| Selection::from_text(&names.text())),
                layers_to_transform: self.layers_to_transform.clone(),
                modules_to_save: self.modules_to_save.clone(),
                ..Scope::default()
            },
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            init_lora_weights: self.init_lora_weights.clone(),
            trainable_token_indices: self.trainable_token_indices.clone(),
            feedforward: self.feedforward_modules.as_ref().map(|names| Selection::from_text(&names.text())),
            num_virtual_tokens: self.num_virtual_tokens,
            settings: self.set.clone(),
            ..Options::default()
        }
    }
}

fn task(name: &str) -> Result<Task> {
    let all = || TASKS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    Task::from_name(name).ok_or_else(|| Error::mismatch("task", all(), name))
}
