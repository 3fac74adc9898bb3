//! The names of a model's classes, where its files tell them: `id2label` in the metadata of the model's own file, or `id2label` or `label2id` in a Hugging Face `config.json`.

use serde_json::{Map, Value};

use super::{Beside, Model, declared};
use crate::adapter::config::Task;
use crate::ir::Graph;
use crate::{Result, onnx};

/// Under this key a model's own file has what a `config.json` has under it: `{"0": "negative", "1": "positive"}`, as JSON.
const KEY: &str = "id2label";

/// The names in the order of their numbers: from the model's own file, else from the configuration beside it, or in the folder above (`onnx/model.onnx`). None where
/// they have no names of their own: Hugging Face's are `LABEL_0`, `LABEL_1` where nobody gave any.
///
/// # Errors
/// A configuration that is not JSON.
pub fn of_model(model: &Model, task: Task, classes: Option<i64>) -> Result<Vec<String>> {
    let Some(classes) = number(classes).filter(|_| !task.predicts_tokens()) else { return Ok(vec![]) };
    let (inside, beside) = (in_file(&model.base.raw, classes), in_config(model.beside(), classes)?);
    if let (Some(inside), Some(beside)) = (&inside, &beside)
        && inside != beside
    {
        tracing::warn!("the model calls its classes {inside:?}, and config.json {beside:?}; those of the model are taken");
    }
    Ok(inside.or(beside).unwrap_or_default())
}

/// A model whose own file has the names of its classes, so that one that goes without a folder says them: as many as are known, and `LABEL_N` for the others. Without a name, what the
/// file says stays as it is, but for a model with a new head (`is_new`), whose classes are not those that it said.
///
/// # Errors
/// What was kept of the model's file cannot be read.
pub fn written(graph: Graph, classes: Option<i64>, known: &[String], is_new: bool) -> Result<Graph> {
    let table = number(classes)
        .filter(|classes| (1..=*classes).contains(&known.len()))
        .map(|classes| Value::Object(by_number(known, classes)).to_string());
    if table.is_none() && !is_new {
        return Ok(graph);
    }
    let info = onnx::with_metadata(graph.model(), KEY, table.as_deref())?;
    Ok(graph.with_model(info))
}

/// `{"0": "negative", "1": "LABEL_1"}`: what is called by nobody has Hugging Face's name.
#[must_use]
pub fn by_number(known: &[String], classes: usize) -> Map<String, Value> {
    (0..classes).map(|class| (class.to_string(), Value::from(name(known, class)))).collect()
}

/// The name of a class, which is Hugging Face's where nobody gave one.
#[must_use]
pub fn name(known: &[String], class: usize) -> String {
    known.get(class).cloned().unwrap_or_else(|| format!("LABEL_{class}"))
}

fn number(classes: Option<i64>) -> Option<usize> {
    classes.and_then(|classes| usize::try_from(classes).ok())
}

/// What the model's own file says; one that is written otherwise by other programs says nothing here.
fn in_file(graph: &Graph, classes: usize) -> Option<Vec<String>> {
    let table = serde_json::from_str(&onnx::metadata(graph.model(), KEY)?).ok()?;
    names(&table, classes)
}

fn in_config(beside: &Beside, classes: usize) -> Result<Option<Vec<String>>> {
    let Some(config) = beside.json(declared::CONFIG)? else { return Ok(None) };
    let (by_number, by_name) = (names(&config[KEY], classes), numbered(&config["label2id"], classes));
    if let (Some(by_number), Some(by_name)) = (&by_number, &by_name)
        && by_number != by_name
    {
        tracing::warn!("config.json contradicts itself: id2label says {by_number:?} and label2id {by_name:?}; id2label is taken");
    }
    Ok(by_number.or(by_name))
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
