//! The names of a model's classes, where its files tell them: `id2label` in a Hugging Face `config.json`.

use std::path::Path;

use serde_json::Value;

use crate::adapter::config::Task;
use crate::{Context, Error, Result};

/// The file that may have the names.
pub const FILE: &str = "config.json";

/// The names in the order of their numbers, from the configuration beside a model's file, or in the folder above (`onnx/model.onnx`). None where
/// it has no names of its own: Hugging Face's are `LABEL_0`, `LABEL_1` where nobody gave any.
///
/// # Errors
/// A configuration that is not JSON.
pub fn of_model(model: &Path, task: Task, classes: Option<i64>) -> Result<Vec<String>> {
    let Some(classes) = classes.and_then(|classes| usize::try_from(classes).ok()).filter(|_| !task.predicts_tokens()) else {
        return Ok(vec![]);
    };
    let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
    let near = model.ancestors().skip(1).take(2).map(|folder| folder.join(FILE));
    let Some(file) = near.into_iter().find(|file| file.is_file()) else { return Ok(vec![]) };
    let bytes = std::fs::read(&file).in_file(&file)?;
    let config: Value = serde_json::from_slice(&bytes).map_err(|error| Error::format("JSON", error).in_file(&file))?;
    Ok(names(&config["id2label"], classes).unwrap_or_default())
}

/// `{"0": "negative", "1": "positive"}`, if it has a name for every class.
fn names(id2label: &Value, classes: usize) -> Option<Vec<String>> {
    let table = id2label.as_object().filter(|table| table.len() == classes)?;
    let names = (0..classes).map(|class| table.get(&class.to_string())?.as_str().map(ToOwned::to_owned));
    let names: Vec<String> = names.collect::<Option<_>>()?;
    let is_placeholder = names.iter().zip(0..).all(|(name, class)| *name == format!("LABEL_{class}"));
    (!is_placeholder).then_some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_those_of_every_class_in_the_order_of_their_numbers() {
        let row = |id2label: Value, expected: Option<&[&str]>| {
            let expected: Option<Vec<String>> = expected.map(|names| names.iter().map(ToString::to_string).collect());
            assert_eq!(names(&id2label, 2), expected, "{id2label}");
        };
        row(json!({"1": "negative", "0": "positive"}), Some(&["positive", "negative"]));
        row(json!({"0": "LABEL_0", "1": "LABEL_1"}), None);
        row(json!({"0": "a", "1": "b", "2": "c"}), None);
        row(json!({"0": "a", "2": "b"}), None);
        row(json!(null), None);
    }
}
