//! The names of a model's classes, where its files tell them: `id2label`, or `label2id`, in a Hugging Face `config.json`.

use serde_json::Value;

use super::{Beside, declared};
use crate::Result;
use crate::adapter::config::Task;

/// The names in the order of their numbers, from the configuration beside a model's file, or in the folder above (`onnx/model.onnx`). None where
/// it has no names of its own: Hugging Face's are `LABEL_0`, `LABEL_1` where nobody gave any.
///
/// # Errors
/// A configuration that is not JSON.
pub fn of_model(beside: &Beside, task: Task, classes: Option<i64>) -> Result<Vec<String>> {
    let Some(classes) = classes.and_then(|classes| usize::try_from(classes).ok()).filter(|_| !task.predicts_tokens()) else {
        return Ok(vec![]);
    };
    let Some(config) = beside.json(declared::CONFIG)? else { return Ok(vec![]) };
    let (by_number, by_name) = (names(&config["id2label"], classes), numbered(&config["label2id"], classes));
    if let (Some(by_number), Some(by_name)) = (&by_number, &by_name)
        && by_number != by_name
    {
        tracing::warn!("config.json contradicts itself: id2label says {by_number:?} and label2id {by_name:?}; id2label is taken");
    }
    Ok(by_number.or(by_name).unwrap_or_default())
}

/// `{"negative": 0, "positive": 1}`, if every class has a name.
fn numbered(label2id: &Value, classes: usize) -> Option<Vec<String>> {
    let table = label2id.as_object().filter(|table| table.len() == classes)?;
    let number = |value: &Value| value.as_u64().map(|number| number.to_string()).or_else(|| value.as_str().map(ToOwned::to_owned));
    let turned = table.iter().map(|(name, value)| Some((number(value)?, Value::from(name.as_str())))).collect::<Option<_>>()?;
    names(&Value::Object(turned), classes)
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
        assert_eq!(numbered(&json!({"pos": 0, "neg": 1}), 2), Some(vec!["pos".to_owned(), "neg".to_owned()]));
        for unclear in [json!({"LABEL_0": 0, "LABEL_1": 1}), json!({"a": 0, "b": 0}), json!({"a": 0}), json!(null)] {
            assert_eq!(numbered(&unclear, 2), None, "{unclear}");
        }
    }
}
