//! `config.json` of a tuned model: the base's, with what training changed.

use serde_json::{Map, Value, json};

use super::{Layout, Source};
use crate::adapter::config::Task;
use crate::model::class_names;

/// The configuration of a tuned model.
pub(super) fn corrected(mut config: Map<String, Value>, layout: Layout, is_external: bool, source: &Source<'_>) -> Map<String, Value> {
    if let Some(class) = source.task.row().class {
        name_classes(&mut config, source);
        if source.has_new_head {
            rename_architecture(&mut config, class);
        }
        if let Some(kind) = source.task.row().problem_type.filter(|_| source.has_new_head || config.contains_key("problem_type")) {
            config.insert("problem_type".into(), kind.into());
        }
    }
    if source.task == Task::Rerank {
        // sentence-transformers reads there what makes a score of a logit.
        let function =
            if source.loss.tells_probabilities() { "torch.nn.modules.activation.Sigmoid" } else { "torch.nn.modules.linear.Identity" };
        config.insert("sentence_transformers".into(), json!({"activation_fn": function}));
    }
    if layout == Layout::TransformersJs {
        let settings = config.entry("transformers.js_config").or_insert_with(|| json!({}));
        // Without it a browser asks for `model_quantized.onnx`.
        settings["dtype"] = "fp32".into();
        if is_external {
            settings["use_external_data_format"] = true.into();
        } else if let Some(settings) = settings.as_object_mut() {
            settings.shift_remove("use_external_data_format");
        }
    }
    config
}

/// What is known where the base has no configuration: the classes, if they have names. Nothing there is guessed.
pub(super) fn of_classes(source: &Source<'_>) -> Map<String, Value> {
    let mut config = Map::new();
    if source.task.row().class.is_some() && !source.class_names.is_empty() {
        name_classes(&mut config, source);
        config.extend(source.task.row().problem_type.map(|kind| ("problem_type".to_owned(), kind.into())));
    }
    config
}

/// Gives classes the names that the data has for them; where it has none, those of the configuration, if it has as many.
fn name_classes(config: &mut Map<String, Value>, source: &Source<'_>) {
    let Some(classes) = source.classes.filter(|classes| *classes > 0) else { return };
    let has_as_many = config.get("id2label").and_then(Value::as_object).is_some_and(|table| table.len() == classes);
    if source.class_names.is_empty() && has_as_many && !source.has_new_head {
        return;
    }
    let by_name = (0..classes).map(|class| (class_names::name(source.class_names, class), Value::from(class)));
    config.insert("id2label".into(), Value::Object(class_names::by_number(source.class_names, classes)));
    config.insert("label2id".into(), Value::Object(by_name.collect()));
    config.insert("num_labels".into(), classes.into());
}

/// The text of a setting, if there is one.
pub(super) fn text<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    config.get(name).and_then(Value::as_str)
}

/// `BertModel` and `BertForMaskedLM` with a classifier are `BertForSequenceClassification`.
fn rename_architecture(config: &mut Map<String, Value>, class: &str) {
    let first = config.get("architectures").and_then(|all| all[0].as_str()).map(ToOwned::to_owned);
    if let Some(family) = first.as_deref().and_then(family) {
        config.insert("architectures".into(), json!([format!("{family}{class}")]));
        return;
    }
    // A name that is wrong is worse than none: programs then go by `model_type`.
    let kind = text(config, "model_type").unwrap_or("unknown").to_owned();
    if let Some(other) = first {
        tracing::warn!("config.json: the architecture {other} has no class of a known form; of the model ({kind}) it is left out");
    }
    config.shift_remove("architectures");
}

/// The name of an architecture without that of what it is for.
fn family(architecture: &str) -> Option<&str> {
    if let Some((family, _)) = architecture.split_once("For").filter(|(family, _)| !family.is_empty()) {
        return Some(family);
    }
    let family = ["LMHeadModel", "DoubleHeadsModel", "EncoderModel", "Model"].iter().find_map(|end| architecture.strip_suffix(end))?;
    (!family.is_empty()).then_some(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_known_by_their_family() {
        for (name, expected) in [
            ("BertModel", Some("Bert")),
            ("BertForMaskedLM", Some("Bert")),
            ("GPT2LMHeadModel", Some("GPT2")),
            ("XLMRobertaModel", Some("XLMRoberta")),
            ("LlamaForCausalLM", Some("Llama")),
            ("ViTForImageClassification", Some("ViT")),
            ("Model", None),
            ("ForWhat", None),
            ("something", None),
        ] {
            assert_eq!(family(name), expected, "{name}");
        }
    }
}
