//! Paths where nothing is, and the names that were perhaps meant.

use std::path::{Path, PathBuf};

use super::models::models;
use super::{Role, entries, folder_of, is_bundle, listed, shown};
use crate::error::Error;
use crate::files::Kind;

/// How alike two names must be for one to be taken for a misspelling of the other; 1 is equal.
const ALIKE: f64 = 0.75;

/// The error about a path where nothing is.
pub(super) fn error(role: Role, path: &Path) -> Error {
    let near = near(role, path);
    let hint = if near.is_empty() { advice(role, path) } else { format!("is {} meant?", listed(&near)) };
    Error::invalid("no such file or folder").in_file(path).with_hint(hint)
}

/// What may have been meant: in the nearest folder that is there, names like the one that was given, or the same name one folder deeper.
fn near(role: Role, path: &Path) -> Vec<PathBuf> {
    // The first part of the path that is missing.
    let missing = path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).last().unwrap_or(path);
    let (folder, name) = (folder_of(missing), lower(missing));
    // Joining nothing would add a slash, with which a file is not found.
    let rest: Vec<_> = path.strip_prefix(missing).unwrap_or(Path::new("")).iter().collect();
    let with_rest = |start: PathBuf| rest.iter().fold(start, |path, part| path.join(part));
    let mut deeper = vec![];
    let mut alike: Vec<(f64, PathBuf)> = vec![];
    for entry in entries(folder) {
        let whole = with_rest(entry.clone());
        let likeness = likeness(&name, &lower(&entry));
        if likeness >= ALIKE && whole.exists() && fits(role, &whole) {
            alike.push((likeness, whole));
        }
        let inside = with_rest(entry.join(missing.file_name().unwrap_or_default()));
        if entry.is_dir() && inside.exists() && fits(role, &inside) {
            deeper.push(inside);
        }
    }
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let alike = alike.into_iter().map(|(_, path)| path);
    alike.chain(deeper).take(4).collect()
}

/// How alike two names are: with letters exchanged, left out or added, or with another end.
fn likeness(wanted: &str, name: &str) -> f64 {
    let stem = |name: &str| name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned();
    let of_stems = if stem(wanted) == stem(name) { 1.0 } else { 0.0 };
    strsim::normalized_damerau_levenshtein(wanted, name).max(of_stems)
}

fn lower(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn fits(role: Role, path: &Path) -> bool {
    match role {
        Role::Bundle => is_bundle(path),
        Role::Model if path.is_dir() => !is_bundle(path) && !models(path).is_empty(),
        Role::Model => Kind::of(path) == Some(Kind::Onnx),
        Role::ModelOrBundle => is_bundle(path) || fits(Role::Model, path),
        Role::Adapter => path.is_dir(),
        Role::Data => path.is_file() && Kind::of(path).is_none_or(|kind| role.takes(kind)),
        Role::Tokenizer => path.is_dir() || Kind::of(path) == Some(Kind::Tokenizer),
    }
}

/// What to do where no name is near.
fn advice(role: Role, path: &Path) -> String {
    if let Some(name) = name_on_hub(role, path) {
        return format!(
            "nothing is downloaded; `optimum-cli export onnx --model {name} FOLDER` makes an ONNX model of one of Hugging Face's"
        );
    }
    let absent = path.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).last();
    if let Some(folder) = absent {
        return format!("there is no folder {}; is the path spelled right?", folder.display());
    }
    let folder = folder_of(path);
    let there: Vec<PathBuf> = entries(folder).into_iter().filter(|entry| fits(role, entry)).collect();
    let place = if folder == Path::new(".") { "the current folder".to_owned() } else { shown(folder) };
    match (role, there.is_empty()) {
        (_, false) => format!("{place} has {}", listed(&there)),
        (Role::Bundle, true) => "is the path spelled right? `peft-onnx inject MODEL.onnx -o BUNDLE` writes a bundle".into(),
        (_, true) => format!("is the path spelled right? {place} has nothing that could be meant"),
    }
}

/// A name such as `HuggingFaceTB/SmolLM2-135M`, which other tools download.
fn name_on_hub(role: Role, path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\']);
    let is_file = [".onnx", ".json", ".ort"].iter().any(|end| name.ends_with(end));
    let is_model = matches!(role, Role::Model | Role::ModelOrBundle);
    (is_model && is_name(owner) && is_name(name) && !is_file && !Path::new(owner).exists()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_alike_where_a_few_letters_differ() {
        for (wanted, name, is_alike) in [
            ("model.onxn", "model.onnx", true),
            ("modle.onnx", "model.onnx", true),
            ("model", "model.onnx", true),
            ("train.json", "train.jsonl", true),
            ("train.csv", "train.jsonl", true),
            ("my-lora", "my_lora", true),
            ("eval.jsonl", "train.jsonl", false),
            ("bert.onnx", "gpt2.onnx", false),
        ] {
            assert_eq!(likeness(wanted, name) >= ALIKE, is_alike, "{wanted} {name}: {}", likeness(wanted, name));
        }
    }

    #[test]
    fn names_of_the_hub_have_an_owner_and_no_file() {
        let of = |text| name_on_hub(Role::Model, Path::new(text)).is_some();
        assert!(of("HuggingFaceTB/SmolLM2-135M"));
        for path in ["model.onnx", "folder/model.onnx", "./x/y", "../x", "/abs/path", "a/b/c", "src/x"] {
            assert!(!of(path), "{path}");
        }
        assert!(name_on_hub(Role::Data, Path::new("owner/data")).is_none());
    }
}
