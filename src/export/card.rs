//! The model card of an adapter: `README.md`, as the Hub and people read it.

use std::fmt::Write as _;
use std::path::Path;

use super::manifest::Manifest;
use crate::adapter::config::Task;
use crate::files::{self, inside};
use crate::model::{Beside, declared};
use crate::{Context, Result, peft};

/// The card's file.
pub const FILE: &str = "README.md";

/// The name by which a model's own files call it, if that is one of the Hub's: `owner/name`.
///
/// # Errors
/// A configuration that is not JSON.
pub fn base_of(beside: &Beside) -> Result<Option<String>> {
    let config = beside.json(declared::CONFIG)?.unwrap_or_default();
    Ok(config["_name_or_path"].as_str().filter(|name| is_of_hub(name)).map(ToOwned::to_owned))
}

/// Whether a name is one of the Hub's, and no path.
#[must_use]
pub fn is_of_hub(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    };
    let parts: Vec<&str> = name.split('/').collect();
    (1..=2).contains(&parts.len()) && parts.iter().all(|part| is_part(part)) && !Path::new(name).exists()
}

/// Writes the card of a bundle, or of another folder with its adapter, over an older one; a file of that name that is not ours stays.
///
/// # Errors
/// If the adapter's configuration cannot be read, or the card cannot be written.
pub fn write(folder: &Path, manifest: &Manifest, results: &[(String, f64)]) -> Result<()> {
    let path = folder.join(FILE);
    if inside::facts(&path)?.is_some() && !std::fs::read_to_string(&path).in_file(&path)?.contains(OURS) {
        return Ok(());
    }
    let config = folder.join(peft::CONFIG_FILE);
    let base = peft::AdapterConfig::from_json(&inside::read(&config)?).in_file(&config)?.base_model;
    files::replace(&path, text(manifest, base.as_deref(), results).as_bytes())
}

/// What tells a card of this program from one that somebody wrote or changed.
const OURS: &str = "<!-- peft-onnx writes this page: take this line out to keep your own -->";

/// The card of a bundle's adapter, with what the last run measured.
#[must_use]
pub fn text(manifest: &Manifest, base: Option<&str>, results: &[(String, f64)]) -> String {
    let mut head = "---\nlibrary_name: peft\n".to_owned();
    let mut line = |text: &str| writeln!(head, "{text}").expect("writing to a string does not fail");
    // A path is no name for a page.
    let base = base.filter(|base| is_of_hub(base));
    if let Some(base) = base {
        line(&format!("base_model: {base}"));
    }
    if let Some(task) = Task::from_name(&manifest.task) {
        line(&format!("pipeline_tag: {}", task.row().pipeline_tag));
    }
    line("tags:");
    for tag in [manifest.method.as_str(), "onnx", "peft-onnx"] {
        line(&format!("- {tag}"));
    }
    if let Some(base) = base {
        line(&format!("- base_model:adapter:{base}"));
    }
    head + "---\n" + OURS + "\n\n" + &body(manifest, base, results)
}

fn body(manifest: &Manifest, base: Option<&str>, results: &[(String, f64)]) -> String {
    let on = base.map_or_else(|| format!("`{}`", manifest.base.file), |base| format!("[{base}](https://huggingface.co/{base})"));
    let mut paragraphs = vec![format!(
        "# {} adapter for {}\n\nAn adapter of {on}: {} trainable parameters, trained on its ONNX export with {}.",
        manifest.method, manifest.task, manifest.trainable_count, manifest.producer
    )];
    if !manifest.class_names.is_empty() {
        let classes: Vec<String> = manifest.class_names.iter().enumerate().map(|(number, name)| format!("| {number} | {name} |")).collect();
        paragraphs.push(format!("## Classes\n\n| number | name |\n|---|---|\n{}", classes.join("\n")));
    }
    if !results.is_empty() {
        let rows: Vec<String> = results.iter().map(|(name, value)| format!("| {name} | {value:.4} |")).collect();
        paragraphs.push(format!("## Results\n\nOn rows that were not trained on:\n\n| metric | value |\n|---|---|\n{}", rows.join("\n")));
    }
    paragraphs.push(format!(
        "## Use\n\n```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base_model, \"path/to/this/folder\")\n```\n\n\
         With ONNX: `peft-onnx inject {} --adapter FOLDER -o bundle`, then `peft-onnx merge bundle -o tuned/`.",
        manifest.base.file
    ));
    paragraphs.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (name, expected) in [
            ("sentence-transformers/all-MiniLM-L6-v2", true),
            ("bert-base-uncased", true),
            ("/models/bert", false),
            ("./bert", false),
            ("../bert", false),
            ("a/b/c", false),
            ("C:\\models\\bert", false),
            ("", false),
            ("src", false),
        ] {
            assert_eq!(is_of_hub(name), expected, "{name}");
        }
    }
}
