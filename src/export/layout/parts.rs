//! The files of a model's folder, by name.

use std::path::Path;

use super::{Placed, genai};
use crate::files::{self, near};
use crate::model::{Beside, declared};
use crate::{Context, Error, Result};

/// What a tokenizer consists of: its own file first, then those that name special tokens, then those of tokenizers that are not one file.
pub const TOKENIZER: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "bpe.codes",
    "normalizer.json",
];

/// Files that stay as they are.
pub(super) const COPIED: [&str; 9] = [
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
];

/// Files of sentence-transformers beside [`MODULES`].
const SENTENCES: [&str; 2] = ["sentence_bert_config.json", "config_sentence_transformers.json"];

/// The list of sentence-transformers' modules, of which each but the first has a folder.
const MODULES: &str = "modules.json";

/// All names at the top of a folder of any layout, for who replaces one. `base` tells the folders of its modules.
///
/// # Errors
/// A list of modules that is not JSON.
pub fn names(base: &Path) -> Result<Vec<String>> {
    let own = ["model.onnx", "model.onnx.data", "model.onnx_data", "onnx", declared::CONFIG, genai::FILE, MODULES, "config.yaml"];
    let names = own.into_iter().chain(TOKENIZER).chain(COPIED).chain(SENTENCES).map(ToOwned::to_owned);
    Ok(names.chain(module_folders(base)?).collect())
}

/// The folders of sentence-transformers' modules.
fn module_folders(base: &Path) -> Result<Vec<String>> {
    let modules = Beside::near(base).json(MODULES)?.unwrap_or_default();
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| module["path"].as_str());
    let is_one_name = |path: &&str| !path.is_empty() && !path.starts_with('.') && !path.contains(['/', '\\']);
    Ok(paths.filter(is_one_name).map(ToOwned::to_owned).collect())
}

/// Copies what sentence-transformers reads, if the base's folder is one of its.
pub(super) fn sentence_transformers(folder: &Path, base: &Path, placed: &mut Placed) -> Result<()> {
    let Some(modules) = near::file(base, MODULES) else { return Ok(()) };
    let from = files::folder(&modules);
    for name in [MODULES].iter().chain(&SENTENCES) {
        placed.copy(Some(&from.join(name)).filter(|file| file.is_file()).map(std::path::PathBuf::as_path), folder, name)?;
    }
    for module in module_folders(base)? {
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
