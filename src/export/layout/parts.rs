//! The files of a model's folder, by name.

use std::path::Path;

use super::genai;
use crate::Result;
use crate::model::{Beside, declared};

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

/// The folder of the module that pools.
pub(super) const POOLING: &str = "1_Pooling";
/// The folder of the module that brings vectors to length 1, which has no files.
pub(super) const NORMALIZE: &str = "2_Normalize";

/// Files of sentence-transformers beside [`MODULES`].
pub(super) const SENTENCES: [&str; 2] = ["sentence_bert_config.json", SETTINGS];

/// Settings of sentence-transformers: what stands before texts, how vectors are compared.
pub(super) use crate::model::declared::SETTINGS;

/// The list of sentence-transformers' modules, of which each but the first has a folder.
pub(super) const MODULES: &str = "modules.json";

/// All names at the top of a folder of any layout, for who replaces one. `base` tells the folders of its modules.
///
/// # Errors
/// A list of modules that is not JSON.
pub fn names(base: &Path) -> Result<Vec<String>> {
    let own = [
        "model.onnx",
        "model.onnx.data",
        "model.onnx_data",
        "onnx",
        declared::CONFIG,
        genai::FILE,
        MODULES,
        declared::OPTIONS,
        POOLING,
        NORMALIZE,
    ];
    let names = own.into_iter().chain(TOKENIZER).chain(COPIED).chain(SENTENCES).map(ToOwned::to_owned);
    Ok(names.chain(module_folders(base)?).collect())
}

/// The folders of sentence-transformers' modules.
pub(super) fn module_folders(base: &Path) -> Result<Vec<String>> {
    let modules = Beside::near(base).objects(MODULES)?.unwrap_or_default();
    let paths = modules.iter().filter_map(|module| module["path"].as_str());
    let is_one_name = |path: &&str| !path.is_empty() && !path.starts_with('.') && !path.contains(['/', '\\']);
    Ok(paths.filter(is_one_name).map(ToOwned::to_owned).collect())
}
