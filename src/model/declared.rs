//! What the files beside a model say of it: `config.json` of transformers, `modules.json` of sentence-transformers.

use serde_json::Value;

use super::Beside;
use crate::Result;
use crate::anatomy::Declared;

/// The file that transformers keeps beside a model.
pub const CONFIG: &str = "config.json";

/// The file in which transformers keeps how a model writes.
pub const GENERATION: &str = "generation_config.json";

/// The file with the options that a tuned model was made with, in the folder that it was written into.
pub const OPTIONS: &str = "config.yaml";

/// The file in which sentence-transformers keeps what stands before texts.
pub const SETTINGS: &str = "config_sentence_transformers.json";

/// The file that sentence-transformers keeps beside a model.
const MODULES: &str = "modules.json";

/// What configurations call the longest text.
const LENGTHS: [&str; 4] = ["max_position_embeddings", "n_positions", "n_ctx", "seq_length"];

/// The longest text that a model was made for, in tokens, as its configuration tells it. Rotary embeddings have no end of their own: this is it.
///
/// # Errors
/// A configuration that is not JSON.
pub fn positions(beside: &Beside) -> Result<Option<usize>> {
    let config = beside.json(CONFIG)?.unwrap_or_default();
    let own = |config: &Value| LENGTHS.iter().find_map(|name| config.get(name)?.as_u64()).and_then(|most| usize::try_from(most).ok());
    Ok(own(&config).or_else(|| own(config.get("text_config")?)).filter(|most| *most > 0))
}

/// What sentence-transformers makes a pair's score of a logit with, by its configuration.
fn activation(config: &Value) -> Option<&str> {
    // The second name is that of old versions.
    let names = [&config["sentence_transformers"]["activation_fn"], &config["sbert_ce_default_activation_function"]];
    names.into_iter().find_map(Value::as_str)
}

/// Whether sentence-transformers takes a pair's logit for its score as it is.
///
/// # Errors
/// A configuration that is not JSON.
pub fn tells_logits(beside: &Beside) -> Result<bool> {
    let config = beside.json(CONFIG)?.unwrap_or_default();
    Ok(activation(&config).is_some_and(|name| name.ends_with("Identity")))
}

/// What the files beside a model say of it.
///
/// # Errors
/// A file that is not JSON.
pub fn of_model(beside: &Beside) -> Result<Declared> {
    let config = beside.json(CONFIG)?.unwrap_or_default();
    let modules = beside.objects(MODULES)?.unwrap_or_default();
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let labels = config["id2label"].as_object().map(serde_json::Map::len);
    let is_pooling = |module: &Value| module["type"].as_str().is_some_and(|name| name.ends_with("Pooling"));
    Ok(Declared {
        architecture: text(&config["architectures"][0]),
        problem_type: text(&config["problem_type"]),
        num_labels: count(&config["num_labels"]).or(labels),
        is_encoder_decoder: config["is_encoder_decoder"].as_bool().unwrap_or(false),
        scores_pairs: activation(&config).is_some(),
        pools_sentences: modules.iter().any(is_pooling),
    })
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
        assert_eq!(of_model(&Beside::near(&model))?, Declared::default());
        write(CONFIG, r#"{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}, "problem_type": "regression"}"#);
        write(MODULES, r#"[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]"#);
        let declared = of_model(&Beside::near(&model))?;
        assert_eq!(declared.architecture.as_deref(), Some("BertForSequenceClassification"));
        assert_eq!((declared.num_labels, declared.problem_type.as_deref()), (Some(1), Some("regression")));
        assert!(declared.pools_sentences);
        write(CONFIG, "{");
        assert!(of_model(&Beside::near(&model)).is_err_and(|error| error.to_string().contains(CONFIG)));
        Ok(())
    }
}
