//! What the files beside a model say of it: `config.json` of transformers, `modules.json` of sentence-transformers.

use std::path::Path;

use serde_json::Value;

use crate::anatomy::Declared;
use crate::{Context, Error, Result, files};

/// The file that transformers keeps beside a model.
pub const CONFIG: &str = "config.json";

/// The file that sentence-transformers keeps beside a model.
const MODULES: &str = "modules.json";

/// What the files beside a model say of it.
///
/// # Errors
/// A file that is not JSON.
pub fn of_model(model: &Path) -> Result<Declared> {
    let config = config(model)?.unwrap_or_default();
    let modules = read(model, MODULES)?.unwrap_or_default();
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let labels = config["id2label"].as_object().map(serde_json::Map::len);
    let is_pooling = |module: &Value| module["type"].as_str().is_some_and(|name| name.ends_with("Pooling"));
    Ok(Declared {
        architecture: text(&config["architectures"][0]),
        problem_type: text(&config["problem_type"]),
        num_labels: count(&config["num_labels"]).or(labels),
        is_encoder_decoder: config["is_encoder_decoder"].as_bool().unwrap_or(false),
        pools_sentences: modules.as_array().is_some_and(|modules| modules.iter().any(is_pooling)),
    })
}

/// The configuration beside a model, if there is one.
///
/// # Errors
/// A file that is not JSON.
pub fn config(model: &Path) -> Result<Option<Value>> {
    read(model, CONFIG)
}

/// A JSON file that belongs to a model.
pub(crate) fn read(model: &Path, name: &str) -> Result<Option<Value>> {
    let Some(file) = files::near::file(model, name) else { return Ok(None) };
    let bytes = std::fs::read(&file).in_file(&file)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::format("JSON", error).in_file(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_beside_the_model_and_in_the_folder_above() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("the file is written");
        std::fs::create_dir(folder.path().join("onnx")).expect("the folder is made");
        write("onnx/model.onnx", "");
        let model = folder.path().join("onnx/model.onnx");
        assert_eq!(of_model(&model)?, Declared::default());
        write(CONFIG, r#"{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}, "problem_type": "regression"}"#);
        write(MODULES, r#"[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]"#);
        let declared = of_model(&model)?;
        assert_eq!(declared.architecture.as_deref(), Some("BertForSequenceClassification"));
        assert_eq!((declared.num_labels, declared.problem_type.as_deref()), (Some(1), Some("regression")));
        assert!(declared.pools_sentences);
        write(CONFIG, "{");
        assert!(of_model(&model).is_err_and(|error| error.to_string().contains(CONFIG)));
        Ok(())
    }
}
