//! Folders that other programs open: the model where they look for it, and beside it the files that they read.
//!
//! | layout | the model | its weights, where they lie beside it | read by |
//! |---|---|---|---|
//! | `onnx` | `model.onnx` | `model.onnx.data` | anything |
//! | `optimum` | `model.onnx` | `model.onnx_data` | optimum, sentence-transformers |
//! | `transformers.js` | `onnx/model.onnx` | `onnx/model.onnx_data` | transformers.js, optimum, sentence-transformers |
//! | `genai` | `model.onnx` | `model.onnx.data` | onnxruntime-genai |
//!
//! Files of the base are copied byte by byte, save for configurations, in which what the adapter changed is corrected: the classes, the
//! architecture, the model's file.

mod config;
mod genai;
mod parts;
mod sentences;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use super::manifest::Port;
use super::pending;
use crate::adapter::config::Task;
use crate::files::{self, near};
use crate::model::{Beside, declared};
use crate::train::plan::LossPlan;
use crate::{Context, Error, Result, peft};

pub use parts::{TOKENIZER, names};

/// The form of a model's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The model and its tokenizer.
    Onnx,
    /// As `optimum-cli export onnx` writes it.
    Optimum,
    /// As transformers.js reads it.
    TransformersJs,
    /// As onnxruntime-genai's builder writes it.
    Genai,
}

const NAMES: [(Layout, &str); 4] =
    [(Layout::Onnx, "onnx"), (Layout::Optimum, "optimum"), (Layout::TransformersJs, "transformers.js"), (Layout::Genai, "genai")];

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(layout, _)| layout == self).map_or("", |(_, name)| *name))
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        // `transformersjs` and `transformers-js` are written as well.
        let plain = |name: &str| name.to_lowercase().replace(['.', '-', '_'], "");
        NAMES.iter().find(|(_, own)| plain(own) == plain(name)).map(|(layout, _)| *layout).ok_or_else(|| {
            let all: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            Error::not_found("layout", name).with_hint(format!("layouts are {}", all.join(", ")))
        })
    }
}

impl Layout {
    /// The layout of the folder that a model lies in.
    #[must_use]
    pub fn around(model: &Path) -> Self {
        let has = |name: &str| near::file(model, name).is_some();
        let is_in_onnx = std::path::absolute(model).ok().and_then(|path| Some(path.parent()?.ends_with("onnx"))).unwrap_or(false);
        match () {
            () if has(genai::FILE) => Self::Genai,
            () if !has(declared::CONFIG) => Self::Onnx,
            () if is_in_onnx => Self::TransformersJs,
            () => Self::Optimum,
        }
    }

    /// The model's file in the folder.
    #[must_use]
    pub fn model(self) -> &'static str {
        if self == Self::TransformersJs { "onnx/model.onnx" } else { "model.onnx" }
    }

    /// The name of the file beside the model with its weights, where they are not inside.
    #[must_use]
    pub fn data(self) -> &'static str {
        match self {
            Self::Onnx | Self::Genai => "model.onnx.data",
            Self::Optimum | Self::TransformersJs => "model.onnx_data",
        }
    }
}

/// What a folder is made of.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The base's file, beside which the files of its folder are.
    pub base: &'a Path,
    /// A tokenizer, or its folder, in place of the one beside the base.
    pub tokenizer: Option<&'a Path>,
    /// What the model was trained for.
    pub task: Task,
    /// What was minimised.
    pub loss: &'a LossPlan,
    /// Whether the model has a head that the base had not.
    pub has_new_head: bool,
    /// The names of the classes in the order of their numbers, where they are known.
    pub class_names: &'a [String],
    /// The number of classes, where there are any.
    pub classes: Option<usize>,
    /// The model's inputs.
    pub inputs: &'a [Port],
    /// The model's outputs.
    pub outputs: &'a [Port],
}

/// What was put beside a model.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// The files, by their paths in the folder.
    pub files: Vec<String>,
    /// What a program that reads this layout will miss, in words.
    pub missing: Vec<String>,
}

/// Completes a folder that has the model already.
///
/// # Errors
/// Files that cannot be read or written; a configuration that is not JSON; a layout that the model does not go with.
pub fn complete(folder: &Path, layout: Layout, source: &Source<'_>) -> Result<Placed> {
    let mut placed = Placed::default();
    let from: Vec<PathBuf> = source.tokenizer.map(tokenizer_folder).into_iter().collect();
    for name in TOKENIZER {
        let found = from.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
        // Of a tokenizer that was named, no part is taken from another one.
        let found = found.or_else(|| if from.is_empty() { near::file(source.base, name) } else { None });
        placed.copy(found.as_deref(), folder, name)?;
    }
    if !placed.files.iter().any(|file| file == TOKENIZER[0]) && source.reads_text() {
        placed.missing.push(format!("{} (there is none beside the base)", TOKENIZER[0]));
    }
    for name in parts::COPIED {
        placed.copy(near::file(source.base, name).as_deref(), folder, name)?;
    }
    // A classifier of sentences is no model of their vectors any more.
    if !source.has_new_head {
        sentences::place(folder, source, &mut placed)?;
    }
    let beside = Beside::near(source.base);
    if let Some(Value::Object(config)) = beside.json(declared::CONFIG)? {
        let is_external = folder.join(layout.model()).with_file_name(layout.data()).is_file();
        placed.write(folder, declared::CONFIG, &Value::Object(config::corrected(config, layout, is_external, source)))?;
    } else {
        let known = config::of_classes(source);
        let missing = if known.is_empty() { declared::CONFIG.to_owned() } else { format!("model_type in {}", declared::CONFIG) };
        if !known.is_empty() {
            placed.write(folder, declared::CONFIG, &Value::Object(known))?;
        }
        if layout != Layout::Onnx {
            placed.missing.push(format!("{missing} (there is none beside the base)"));
        }
    }
    match (beside.json(genai::FILE)?, layout) {
        (Some(config), Layout::Genai) => placed.write(folder, genai::FILE, &genai::corrected(config))?,
        (None, Layout::Genai) => placed.write(folder, genai::FILE, &genai::config(source)?)?,
        (_, Layout::Onnx | Layout::Optimum | Layout::TransformersJs) => {}
    }
    placed.files.sort();
    Ok(placed)
}

/// Puts into an adapter's folder what a tokenizer consists of.
///
/// # Errors
/// Files that cannot be read or written.
pub fn copy_tokenizer(model: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut placed = Placed::default();
    for name in TOKENIZER {
        placed.copy(near::file(model, name).as_deref(), folder, name)?;
    }
    Ok(placed.files)
}

impl Source<'_> {
    fn reads_text(&self) -> bool {
        self.task.reads_tokens() || self.task.labels_texts()
    }
}

impl Placed {
    fn copy(&mut self, from: Option<&Path>, folder: &Path, name: &str) -> Result<()> {
        let Some(from) = from else { return Ok(()) };
        let to = folder.join(name);
        files::make_folder(files::folder(&to))?;
        // A link would lead back to the user's file.
        std::fs::copy(from, &to).in_file(from)?;
        self.files.push(name.to_owned());
        Ok(())
    }

    fn write(&mut self, folder: &Path, name: &str, json: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(json).map_err(|error| Error::format("JSON", error))?;
        let to = folder.join(name);
        files::make_folder(files::folder(&to))?;
        files::replace(&to, format!("{text}\n").as_bytes())?;
        if !self.files.iter().any(|placed| placed == name) {
            self.files.push(name.to_owned());
        }
        Ok(())
    }
}

/// The folder of a tokenizer that was named by its file or by its folder.
fn tokenizer_folder(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_path_buf() } else { files::folder(path).to_path_buf() }
}

/// The files of an adapter that is handed on: PEFT's, a model card and the tokenizer.
#[must_use]
pub fn adapter_files() -> Vec<&'static str> {
    pending::ADAPTER_FILES.into_iter().chain([super::card::FILE]).chain(TOKENIZER).collect()
}

/// Whether an adapter's configuration says that its base has a head of its own.
///
/// # Errors
/// A configuration that cannot be read.
pub fn has_new_head(adapter: &Path) -> Result<bool> {
    let path = adapter.join(peft::CONFIG_FILE);
    let text = files::read(&path)?;
    Ok(peft::AdapterConfig::from_json(&text).in_file(&path)?.new_head.is_some())
}

#[cfg(test)]
mod tests;
