//! Tokenizers of models that hear symbols: a `vocab.json` of characters, as wav2vec2's folders have it, made a tokenizer.
//!
//! As transformers' `Wav2Vec2CTCTokenizer`: each character is a symbol, one symbol stands for the space between words.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// The file with the numbers of symbols.
pub(super) const FILE: &str = "vocab.json";

/// What stands beside a `vocab.json` whose entries are pieces of words, which are not read without it.
pub(super) const MERGES: &str = "merges.txt";

/// A `tokenizer.json` of the symbols of a `vocab.json`; `config` is `tokenizer_config.json`.
///
/// # Errors
/// A file that is no table of numbers; one of several languages, without the one that is meant.
pub(super) fn tokenizer(vocab: &Value, config: &Value) -> Result<Value> {
    let table = of_language(vocab, config)?;
    let word = |name: &str, usual: &str| {
        let told = &config[name];
        told.as_str().or_else(|| told["content"].as_str()).unwrap_or(usual).to_owned()
    };
    let (pad, unknown, space) = (word("pad_token", "<pad>"), word("unk_token", "<unk>"), word("word_delimiter_token", "|"));
    let mut table = table.clone();
    // Symbols that were added later have their numbers in the configuration.
    for (number, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Ok(number), Some(content)) = (number.parse::<u32>(), token["content"].as_str()) {
            table.entry(content.to_owned()).or_insert_with(|| number.into());
        }
    }
    let specials = [pad.clone(), unknown.clone(), word("bos_token", "<s>"), word("eos_token", "</s>")];
    let added = specials.iter().filter_map(|name| {
        let number = table.get(name)?;
        Some(json!({"id": number, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
    });
    Ok(json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": space},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "CTC", "pad_token": pad, "word_delimiter_token": space, "cleanup": false},
        "model": {"type": "WordLevel", "vocab": table, "unk_token": unknown},
    }))
}

/// The table itself, or that of the language that the configuration names.
fn of_language<'v>(vocab: &'v Value, config: &Value) -> Result<&'v Map<String, Value>> {
    let wrong = || Error::format("a vocabulary", "it is no table of symbols and their numbers");
    let table = vocab.as_object().ok_or_else(wrong)?;
    if table.values().all(Value::is_u64) && !table.is_empty() {
        return Ok(table);
    }
    let language = config["target_lang"].as_str();
    let found = language.and_then(|language| table.get(language)?.as_object());
    found.ok_or_else(|| {
        let languages: Vec<&str> = table.iter().filter(|(_, value)| value.is_object()).map(|(name, _)| name.as_str()).take(12).collect();
        if languages.is_empty() {
            return wrong();
        }
        let error = Error::not_found("language of the vocabulary", language.unwrap_or("(none)"));
        error.with_hint(format!("write \"target_lang\" into tokenizer_config.json: {}", languages.join(", ")))
    })
}

/// Whether a folder's `vocab.json` is one of symbols.
pub(super) fn is_in(folder: &Path) -> bool {
    folder.join(FILE).is_file() && !folder.join(MERGES).is_file()
}
