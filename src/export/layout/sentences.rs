//! What sentence-transformers reads beside a model: how vectors of texts are made of its hidden states.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::parts::{MODULES, NORMALIZE, POOLING, SENTENCES, SETTINGS, module_folders};
use super::{Layout, Placed, Source};
use crate::adapter::config::{Pooling, Task};
use crate::export::manifest::Port;
use crate::export::objective;
use crate::export::recorded_prompts::KINDS;
use crate::files::{self, near};
use crate::model::{Beside, declared};
use crate::train::pooling::SentenceVector;
use crate::{Context, Error, Result};

/// sentence-transformers' names of poolings, each with its flag in the module's configuration.
const POOLINGS: [(Option<Pooling>, &str); 6] = [
    (Some(Pooling::First), "pooling_mode_cls_token"),
    (Some(Pooling::Mean), "pooling_mode_mean_tokens"),
    (None, "pooling_mode_max_tokens"),
    (None, "pooling_mode_mean_sqrt_len_tokens"),
    (None, "pooling_mode_weightedmean_tokens"),
    (Some(Pooling::Last), "pooling_mode_lasttoken"),
];

/// Places what sentence-transformers reads: the base's own files, where the model was trained with the pooling that they name, else files with that pooling.
///
/// # Errors
/// Files that cannot be read or written.
pub(super) fn place(folder: &Path, source: &Source<'_>, placed: &mut Placed) -> Result<()> {
    copy(folder, source, placed)?;
    let beside = Beside::near(source.base);
    if source.task == Task::Embedding && !source.loss.prompts.is_empty() {
        placed.write(folder, SETTINGS, &prompted(beside.json(SETTINGS)?.unwrap_or_default(), &source.loss.prompts))?;
    }
    let trained = source.loss.vector.filter(|vector| source.task == Task::Embedding && vector.pooling != Pooling::Nothing);
    let Some(vector) = trained else { return Ok(()) };
    // A pooling that is refused there is none that was trained with.
    if objective::pooled_in_folder(&beside).ok().flatten() == Some(vector) {
        return Ok(());
    }
    let config = beside.json(declared::CONFIG)?.unwrap_or_default();
    let Some(width) = source.width().or_else(|| config["hidden_size"].as_u64()) else {
        placed.missing.push(format!("{MODULES} (how wide the vectors are, neither the graph nor {} tells)", declared::CONFIG));
        return Ok(());
    };
    placed.write(folder, MODULES, &modules(vector))?;
    placed.write(folder, &format!("{POOLING}/{}", declared::CONFIG), &pooling(vector.pooling, width))
}

/// The settings of sentence-transformers with what stood before the texts of the training. Where it was the same before all of them, it is there by default.
fn prompted(settings: Value, prompts: &[(String, String)]) -> Value {
    let mut settings = if let Value::Object(settings) = settings { settings } else { Map::new() };
    let mut known = settings.get("prompts").and_then(Value::as_object).cloned().unwrap_or_default();
    let of_positives = prompts.iter().find(|(column, _)| column == "positive").map(|(_, text)| text);
    let kind = |column: &str, text: &String| match KINDS.iter().find(|(name, _)| *name == column) {
        // Documents, where these are read as positives are.
        Some(("negative", _)) if of_positives == Some(text) => "document".to_owned(),
        known => known.map_or(column, |(_, names)| names[0]).to_owned(),
    };
    let named: Map<String, Value> = prompts.iter().map(|(column, text)| (kind(column, text), Value::from(text.as_str()))).collect();
    let is_for_all = |names: [&str; 2]| named.get(names[0]).filter(|text| named.get(names[1]) == Some(text)).map(|_| names[0].to_owned());
    let of_all = [["query", "document"], ["sentence1", "sentence2"]].into_iter().find_map(is_for_all);
    known.extend(named);
    for kind in ["query", "document"] {
        known.entry(kind).or_insert_with(|| "".into());
    }
    settings.insert("prompts".to_owned(), known.into());
    if of_all.is_some() || !settings.contains_key("default_prompt_name") {
        settings.insert("default_prompt_name".to_owned(), of_all.map_or(Value::Null, Value::from));
    }
    settings.entry("similarity_fn_name").or_insert_with(|| "cosine".into());
    Value::Object(settings)
}

/// The list of modules: hidden states, pooling, and length 1 where it was trained.
fn modules(vector: SentenceVector) -> Value {
    let all = [("", "Transformer", true), (POOLING, "Pooling", true), (NORMALIZE, "Normalize", vector.normalize)];
    let module = |(at, (path, kind, _)): (usize, (&str, &str, bool))| json!({"idx": at, "name": at.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    all.into_iter().filter(|(.., is_there)| *is_there).enumerate().map(module).collect()
}

fn pooling(pooling: Pooling, width: u64) -> Value {
    let flags = POOLINGS.iter().map(|(own, name)| ((*name).to_owned(), Value::from(*own == Some(pooling))));
    let all: Map<String, Value> = std::iter::once(("word_embedding_dimension".to_owned(), width.into())).chain(flags).collect();
    Value::Object(all)
}

/// optimum's name for hidden states.
const STATES: &str = "last_hidden_state";

impl<'a> Source<'a> {
    /// The output of the states that are pooled.
    fn states(&self) -> Option<&'a Port> {
        self.outputs.iter().find(|output| output.shape.len() == 3)
    }

    /// The width of the states that are pooled, where the graph tells it.
    fn width(&self) -> Option<u64> {
        self.states()?.shape[2].as_u64()
    }

    /// An output of the model that is wanted under another name as well, and that name: optimum, and sentence-transformers with it, reads hidden states by a name that
    /// `optimum-cli export onnx` itself does not give to those of sentence-transformers' models, which it calls `token_embeddings`.
    #[must_use]
    pub fn renamed(&self, layout: Layout) -> Option<(&'a str, &'static str)> {
        let is_read = self.task == Task::Embedding && matches!(layout, Layout::Optimum | Layout::TransformersJs);
        let states = self.states().filter(|_| is_read && self.outputs.iter().all(|output| output.name != STATES))?;
        Some((&states.name, STATES))
    }
}

/// Copies the base's files, if its folder is one of sentence-transformers.
fn copy(folder: &Path, source: &Source<'_>, placed: &mut Placed) -> Result<()> {
    let Some(modules) = near::file(source.base, MODULES) else { return Ok(()) };
    let from = files::folder(&modules);
    for name in [MODULES].iter().chain(&SENTENCES) {
        placed.copy(Some(&from.join(name)).filter(|file| file.is_file()).map(std::path::PathBuf::as_path), folder, name)?;
    }
    for module in module_folders(source.base)? {
        let inner = from.join(&module);
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            // `2_Normalize` has no files, and folders without files get lost on the way.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::from(error).in_file(&inner)),
        };
        for entry in entries {
            let entry = entry.in_file(&inner)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() {
                placed.copy(Some(&entry.path()), folder, &format!("{module}/{name}"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_columns_are_those_of_queries_and_documents() {
        let given =
            |prompts: &[(&str, &str)]| prompts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>();
        let asked = prompted(Value::Null, &given(&[("anchor", "query: ")]));
        assert_eq!(asked["prompts"], json!({"query": "query: ", "document": ""}));
        assert_eq!((&asked["default_prompt_name"], &asked["similarity_fn_name"]), (&Value::Null, &json!("cosine")));
        let alike = prompted(Value::Null, &given(&[("anchor", "text: "), ("positive", "text: ")]));
        assert_eq!(alike["default_prompt_name"], "query", "one prompt for all texts is there without being named");
        let own = json!({"prompts": {"query": "old: ", "code": "code: "}, "default_prompt_name": "code", "similarity_fn_name": "dot", "other": 1});
        let told = prompted(own, &given(&[("anchor", "query: "), ("positive", "passage: ")]));
        assert_eq!(told["prompts"], json!({"query": "query: ", "document": "passage: ", "code": "code: "}));
        assert_eq!((&told["default_prompt_name"], &told["similarity_fn_name"], &told["other"]), (&json!("code"), &json!("dot"), &json!(1)));
    }
}
