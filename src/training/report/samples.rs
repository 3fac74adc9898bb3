//! Rows as a report shows them: what the model said of each before training, and what it says after.

use minijinja::{Value, context};
use serde_json::{Map, Value as Json};

/// Letters of a text that are shown, at most.
const LONGEST: usize = 600;
/// Numbers of a list that are shown, at most: a vector says nothing to people.
const MOST: usize = 12;

/// Rows before and after training.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// These.
    Rows(Vec<Sample>),
    /// None, and why.
    Missing(String),
}

/// A row before and after training.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its columns in the file.
    pub row: Map<String, Json>,
    /// What the model said of it before, in columns.
    pub before: Map<String, Json>,
    /// What it says after.
    pub after: Map<String, Json>,
}

impl Samples {
    /// As the page has them: three cells a row, of names with their values.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Rows(rows) => {
                let cells = |sample: &Sample| [&sample.row, &sample.before, &sample.after].map(cell).to_vec();
                context! { rows => rows.iter().map(cells).collect::<Vec<_>>() }
            }
            Self::Missing(why) => context! { missing => why },
        }
    }
}

fn cell(fields: &Map<String, Json>) -> Vec<(String, String)> {
    fields.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// A value for people; none where it is no more than numbers.
fn text(value: &Json) -> Option<String> {
    let text = match value {
        Json::String(text) => text.clone(),
        Json::Null => return None,
        Json::Array(items) if items.len() > MOST && items.iter().all(Json::is_number) => return None,
        Json::Array(items) if items.iter().any(|item| item.as_array().is_some_and(|inner| inner.len() > MOST)) => return None,
        Json::Object(fields) => fields.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let mut letters = text.chars();
    let short: String = letters.by_ref().take(LONGEST).collect();
    Some(if letters.next().is_some() { short + " …" } else { short })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_texts_for_people() {
        for (value, expected) in [
            (json!("Störung"), Some("Störung".to_owned())),
            (json!(0.5), Some("0.5".to_owned())),
            (json!({"Lob": 0.9, "Störung": 0.1}), Some("Lob: 0.9, Störung: 0.1".to_owned())),
            (json!(["a", "b"]), Some("[\"a\",\"b\"]".to_owned())),
            (json!(null), None),
            (json!(vec![0.25; 384]), None),
            (json!([vec![0.25; 384], vec![0.5; 384]]), None),
            (json!("x".repeat(700)), Some("x".repeat(600) + " …")),
        ] {
            assert_eq!(text(&value), expected, "{value}");
        }
    }
}
