//! What stands before texts as sentence-transformers' files beside a model say it.

use std::collections::BTreeSet;

use crate::Result;
use crate::model::{Beside, declared};

/// The columns whose texts sentence-transformers encodes as queries and as documents (`encode_query`, `encode_document`), and the names of their prompts,
/// the first before the next; texts of other columns have prompts of their names.
pub(super) const KINDS: [(&str, &[&str]); 3] = [
    ("anchor", &["query"]),
    ("positive", &["document", "passage", "corpus"]),
    ("negative", &["negative", "document", "passage", "corpus"]),
];

/// The columns whose texts it encodes as nothing of these (`encode`).
const OTHERS: [&str; 4] = ["sentence1", "sentence2", "text", "sentence"];

/// The prompts that are not empty, by the roles of the columns that they are for. Where none has a column's name, the one that is there by default stands
/// before its texts.
pub(super) fn of(beside: &Beside) -> Result<Vec<(String, String)>> {
    let settings = beside.json(declared::SETTINGS)?.unwrap_or_default();
    let named = |name: &str| settings["prompts"].get(name).map(|text| text.as_str().unwrap_or_default().to_owned());
    let usual = settings["default_prompt_name"].as_str().and_then(named);
    let found = |names: &[&str]| names.iter().find_map(|name| named(name)).or_else(|| usual.clone());
    let kinds = KINDS.iter().map(|(role, names)| ((*role).to_owned(), found(names)));
    let others = OTHERS.iter().map(|role| ((*role).to_owned(), found(&[role])));
    let all: BTreeSet<&String> = settings["prompts"].as_object().map(|all| all.keys().collect()).unwrap_or_default();
    let numbered = all.into_iter().filter(|name| name.starts_with("negative_")).map(|name| (name.clone(), named(name)));
    let told = kinds.chain(others).chain(numbered).filter_map(|(role, text)| Some((role, text?)));
    Ok(told.filter(|(_, text)| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn prompts_of_a_folder_are_those_of_queries_documents_and_the_one_by_default() -> Result<()> {
        let found = |settings: Value| -> Result<Vec<String>> {
            let files = [(declared::SETTINGS.to_owned(), bytes::Bytes::from(settings.to_string()))].into();
            Ok(of(&Beside::Given(files))?.into_iter().map(|(role, text)| format!("{role}={text}")).collect())
        };
        for (settings, expected) in [
            (json!({"prompts": {}, "default_prompt_name": null}), &[][..]),
            (json!({"prompts": {"query": "q: ", "document": ""}}), &["anchor=q: "]),
            (json!({"prompts": {"query": "q: ", "passage": "p: "}}), &["anchor=q: ", "positive=p: ", "negative=p: "]),
            (
                json!({"prompts": {"query": "", "document": "d: ", "negative": "n: ", "negative_2": "m: "}}),
                &["positive=d: ", "negative=n: ", "negative_2=m: "],
            ),
            (
                json!({"prompts": {"query": "q: ", "document": "", "sentence2": "s: "}, "default_prompt_name": "query"}),
                &["anchor=q: ", "sentence1=q: ", "sentence2=s: ", "text=q: ", "sentence=q: "],
            ),
        ] {
            assert_eq!(found(settings.clone())?, expected, "{settings}");
        }
        Ok(())
    }
}
