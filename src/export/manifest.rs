//! `peft-onnx.json`: what a bundle holds, for programs that run its graphs.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::PromptScale;
use super::names::is_inside;
use crate::anatomy::{Feeding, Task};
use crate::contract::{GraphName, Input, Output, PortRole};
use crate::files::inside;
use crate::files::json::Told;
use crate::ir::Graph;
use crate::model::parts::Join;
use crate::peft::{ENCODER_FILE, FACTORS_FILE, WEIGHTS_FILE};
use crate::train::losses::LABELS;
use crate::train::plan::LossPlan;
use crate::train::recompute::Recompute;
use crate::train::verbalizer::HardPrompt;
use crate::{Context, Error, Result};

/// The manifest's file name.
pub const FILE: &str = "peft-onnx.json";

/// The version of the layout of bundles.
pub const VERSION: u32 = 2;

/// What a bundle holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this layout, [`VERSION`].
    pub version: u32,
    /// The program that wrote the bundle.
    pub producer: String,
    /// The method, by its command-line name: `lora`.
    pub method: String,
    /// The task, by its command-line name: `causal-lm`.
    pub task: String,
    /// The model that the adapter belongs to.
    pub base: Base,
    /// The graphs, by what they are for: `training`, `gradient`, `update`, `evaluation`, `inference`.
    pub graphs: IndexMap<String, GraphFile>,
    /// The layout of the trainable vector.
    pub trainable: Vec<Slot>,
    /// The number of trainable parameters.
    pub trainable_count: usize,
    /// The number of numbers in the base's constants.
    pub base_count: u64,
    /// The name of the output with the logits.
    pub logits: String,
    /// Vocabulary size or number of labels, where it is known.
    pub classes: Option<i64>,
    /// Tokens that the base has an embedding of, where it has a table of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<i64>,
    /// The names of the classes in the order of their numbers, where they are known: from the model's configuration, or since names were first
    /// learnt. There may be fewer than `classes`, of which the last ones have no name yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// The roles of columns of the data that was trained on, where they are not called by them: `{"body": "text"}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub columns: IndexMap<String, String>,
    /// The largest number of positions of a text, where it is known: the base's, less those of virtual tokens.
    pub max_positions: Option<i64>,
    /// Positions that the adapter's virtual tokens take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub virtual_tokens: usize,
    /// Positions in front of those that have labels in the graphs of training: those of virtual tokens that stand among the tokens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub positions_without_label: usize,
    /// On which side of the number that the base multiplies embeddings with virtual tokens are, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_scale: Option<PromptScale>,
    /// Share of activations that are dropped in training.
    pub dropout: f64,
    /// Optimizer steps over which ranks are allocated, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_steps: Option<usize>,
    /// Whether tensors are kept within a norm, from where each step starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub constrained: bool,
    /// What the model's inputs are for, and the lengths that it insists on.
    #[serde(default)]
    pub feeding: Feeding,
    /// The words that labels stand for, where a language model is asked for one of them; labels are then their numbers, at the word's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_prompt: Option<HardPrompt>,
    /// What is computed again in the backward pass.
    #[serde(default, skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Why rows cannot be packed; none if they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpackable: Option<String>,
    /// What is minimised.
    #[serde(default)]
    pub loss: LossPlan,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The model that an adapter belongs to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Base {
    /// The file that `inject` was given, by its name.
    pub file: String,
    /// The file's path from the bundle's folder when the bundle was written, with `/` between its parts.
    pub path: String,
    /// A hash of all bytes of the files.
    pub fingerprint: String,
    /// The files: the model's own, then the others of the model and those with external data. The bundle's graphs refer to each of them as `base/` with
    /// its path, those of a part in another folder as `base/part-1/` with its path.
    pub files: Vec<BaseFile>,
    /// The files that the model is joined of beside its own, by their paths from the model's folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// What is joined beside what names tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<Join>,
}

/// A file of the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// Its path from the model's folder, or from that of the part that it is named with, with `/` between its parts.
    pub path: String,
    /// The part whose folder the path starts from, from 1; 0 for the model.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: usize,
    /// Its length.
    pub bytes: u64,
    /// A hash of its bytes, see [`of_file`](super::fingerprint::of_file).
    pub hash: String,
}

/// A graph of a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GraphFile {
    /// Its file in the bundle.
    pub file: String,
    /// What a caller must feed or may feed.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: PortRole,
    /// ONNX's name of the element type.
    pub dtype: String,
    /// Lengths; names where they vary.
    pub shape: Vec<serde_json::Value>,
}

/// A tensor's place in the trainable vector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// The tensor's key in its file.
    pub name: String,
    /// The file that keeps it: `adapter_model.safetensors`, or what that is made of `prompt_encoder.safetensors` or
    /// `lora_factors.safetensors`.
    pub file: String,
    /// The name of its optional input in graphs that have one for each tensor.
    pub input: String,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Its first number's place in the vector.
    pub offset: usize,
}

/// What tells how to read the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Manifest {
    /// How many numbers a teacher's vectors have, where the loss compares with such.
    #[must_use]
    pub fn numbers_of_vectors(&self) -> Option<usize> {
        let is_of_vectors = self.task == Task::Embedding.name() && self.loss.name == "mse";
        let graph = self.graphs.get(GraphName::Evaluation.name()).filter(|_| is_of_vectors)?;
        let labels = graph.inputs.iter().find(|port| port.name == LABELS)?;
        labels.shape.last()?.as_u64().and_then(|width| usize::try_from(width).ok())
    }

    /// Reads the manifest of a bundle.
    ///
    /// # Errors
    /// A folder that is no bundle; a manifest that does not parse, is of another version, or names files outside of the bundle.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        if path.symlink_metadata().is_ok() {
            inside::own(bundle, &[super::INITIAL])?;
        }
        let text = std::fs::read_to_string(&path).in_file(&path).hint("`peft-onnx inject MODEL.onnx -o BUNDLE` writes a bundle")?;
        Self::from_json(&text).in_file(&path)
    }

    /// The same of its text.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_json(text: &str) -> Result<Self> {
        let wrong = |error: serde_json::Error| Error::format("a bundle's manifest", error);
        let Version { version } = serde_json::from_str(text).map_err(wrong)?;
        if version != VERSION {
            let error = Error::mismatch("version of the bundle", VERSION, version);
            return Err(error.with_hint(if version > VERSION {
                "a newer peft-onnx wrote this bundle; use that one"
            } else {
                "an older peft-onnx wrote this bundle; put its adapter into the model again: `peft-onnx inject MODEL --adapter BUNDLE -o NEW`"
            }));
        }
        let Told(_) = serde_json::from_str(text).map_err(wrong)?;
        let manifest: Self = serde_json::from_str(text).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what a stranger may have written: every file is one of the bundle's own, and sizes are those of the tensors.
    fn check(&self) -> Result<()> {
        let refuse = |field: String, expected: &str, found: &str| {
            Err(Error::mismatch(field, expected, format!("{found:?}"))
                .with_hint("the manifest was not written by `peft-onnx inject`, or was damaged"))
        };
        let is_name = |name: &str| is_inside(name) && !name.contains('/');
        if let Some((purpose, graph)) = self.graphs.iter().find(|(_, graph)| !is_name(&graph.file)) {
            return refuse(format!("graphs.{purpose}.file"), "the name of a file in the bundle", &graph.file);
        }
        let mut count = 0_usize;
        for (number, slot) in self.trainable.iter().enumerate() {
            if ![WEIGHTS_FILE, ENCODER_FILE, FACTORS_FILE].contains(&&*slot.file) {
                return refuse(format!("trainable[{number}].file"), "a file of the adapter", &slot.file);
            }
            let length = slot.shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
            let next = length.filter(|_| slot.offset == count).and_then(|length| count.checked_add(length));
            let Some(next) = next else {
                return refuse(
                    format!("trainable[{number}]"),
                    "tensors one behind the other",
                    &format!("{:?} at {}", slot.shape, slot.offset),
                );
            };
            count = next;
        }
        if count != self.trainable_count {
            return refuse(
                "trainable_count".to_owned(),
                &format!("{count}, as many numbers as the tensors have"),
                &self.trainable_count.to_string(),
            );
        }
        if !is_name(&self.base.file) {
            return refuse("base.file".to_owned(), "the name of a file", &self.base.file);
        }
        if Path::new(&self.base.path).has_root() {
            return refuse("base.path".to_owned(), "a path from the bundle's folder", &self.base.path);
        }
        if let Some(part) = self.base.parts.iter().find(|part| Path::new(part).has_root()) {
            return refuse("base.parts".to_owned(), "paths from the model's folder", part);
        }
        if let Some(file) = self.base.files.iter().find(|file| file.part > self.base.parts.len()) {
            return refuse("base.files".to_owned(), "parts that there are", &file.part.to_string());
        }
        self.feeding.check()?;
        match self.base.files.iter().position(|file| !is_inside(&file.path)) {
            Some(number) => refuse(format!("base.files[{number}].path"), "a path in the model's folder", &self.base.files[number].path),
            None => Ok(()),
        }
    }

    /// Writes the manifest of a bundle.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::invalid(e.to_string()))?;
        crate::files::replace(&bundle.join(FILE), text.as_bytes())
    }

    /// The graph for a purpose.
    ///
    /// # Errors
    /// If the bundle has none.
    pub fn graph(&self, purpose: &str) -> Result<&GraphFile> {
        self.graphs.get(purpose).ok_or_else(|| Error::not_found("graph", purpose))
    }
}

impl GraphFile {
    /// Describes a graph that is about to be written.
    #[must_use]
    pub fn describe(file: &str, graph: &Graph) -> Self {
        let port = |id, role: PortRole| {
            let value = graph.value(id);
            let shape = value.fact.shape.iter().flatten();
            let shape =
                shape.map(|dim| dim.as_known().map_or_else(|| dim.as_name().unwrap_or("?").into(), serde_json::Value::from)).collect();
            let dtype = value.fact.dtype.map_or("?", crate::ir::DType::name).to_owned();
            Port { name: value.name.to_string(), role, dtype, shape }
        };
        let of_input = |id| {
            let usual = if graph.initializer(id).is_some() { PortRole::Parameter } else { PortRole::Data };
            Input::from_name(graph.value_name(id)).and_then(Input::role).unwrap_or(usual)
        };
        let of_output = |id| Output::from_name(graph.value_name(id)).map_or(PortRole::Result, Output::role);
        Self {
            file: file.to_owned(),
            inputs: graph.inputs().iter().map(|&id| port(id, of_input(id))).collect(),
            outputs: graph.outputs().iter().map(|&id| port(id, of_output(id))).collect(),
        }
    }
}
