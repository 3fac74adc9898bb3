//! Prompts: what is put in front of the texts of a column, by the column's role, or by a name that people give a column of that role.

use std::collections::{BTreeMap, BTreeSet};

use super::column_map::Renamed;
use super::meanings::plain;
use super::task_columns::of_task;
use crate::adapter::config::Task;
use crate::error::{Error, Result};
use crate::train::plan::LossPlan;

/// The roles of texts that have a column of their own.
const ROLES: [&str; 7] = ["anchor", "positive", "negative", "sentence1", "sentence2", "text", "sentence"];
const NEGATIVE: &str = "negative";

/// Prompts by the roles of the columns that they are for; `map` has columns that are given a role.
///
/// # Errors
/// A name that no column of texts has, with those that there are; two prompts for one role.
pub fn prompted(prompts: &[(String, String)], map: &[Renamed]) -> Result<Vec<(String, String)>> {
    let mut found: BTreeMap<String, &str> = BTreeMap::new();
    prompts
        .iter()
        .map(|(name, prompt)| {
            let mapped = map.iter().find(|renamed| plain(renamed.column()) == plain(name)).map(Renamed::role);
            let role = role(mapped.unwrap_or(name))?;
            if let Some(other) = found.insert(role.clone(), name) {
                let error = Error::invalid(format!("the prompts of {other} and {name} are both for the texts of {role}"));
                return Err(error.with_hint("a column has one prompt: leave one of them out"));
            }
            Ok((role, prompt.clone()))
        })
        .collect()
}

/// The role that is meant by the name of a column of texts.
fn role(name: &str) -> Result<String> {
    let wanted = plain(name);
    let aliases = of_task(Task::Embedding).map(|columns| columns.aliases).unwrap_or_default();
    let by_alias = || aliases.iter().find(|(role, names)| ROLES.contains(role) && names.contains(&wanted.as_str())).map(|(role, _)| *role);
    match by_alias() {
        Some(role) => Ok(role.to_owned()),
        None if ROLES.contains(&wanted.as_str()) || is_numbered(&wanted) => Ok(wanted),
        None => {
            let error = Error::not_found("column of texts", name);
            Err(error.with_hint(format!(
                "columns of texts are {}, and negative_1 and so on; for a column that `map` gives a role, name the role",
                ROLES.join(", ")
            )))
        }
    }
}

fn is_numbered(name: &str) -> bool {
    name.strip_prefix("negative_").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The prompt of a column of this role: its own; of a numbered negative else that of all negatives. What was asked for comes before what the folder says.
pub(super) fn of<'a>(loss: &'a LossPlan, column: &str) -> &'a str {
    let is = |name: &str, wanted: &str| role(name).is_ok_and(|role| role == wanted);
    let among = |prompts: &'a [(String, String)]| {
        let named = |wanted: &str| prompts.iter().find(|(name, _)| is(name, wanted)).map(|(_, prompt)| prompt.as_str());
        named(column).or_else(|| named(NEGATIVE).filter(|_| is_numbered(column)))
    };
    among(&loss.prompts).or_else(|| among(&loss.recorded_prompts)).unwrap_or_default()
}

/// The roles that prompts are for and no column of a file of these roles has; a file may lack negatives.
///
/// # Errors
/// As [`prompted`].
pub(super) fn unused(loss: &LossPlan, roles: &BTreeSet<&str>) -> Result<Vec<String>> {
    let is_there = |role: &str| roles.contains(role) || role.starts_with(NEGATIVE);
    Ok(prompted(&loss.prompts, &[])?.into_iter().map(|(role, _)| role).filter(|role| !is_there(role)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("{name}: "))).collect()
    }

    #[test]
    fn a_prompt_is_for_the_role_that_a_columns_name_means() {
        let map = ["headline=anchor".parse().expect("a column and its role")];
        let roles =
            |names: &[&str]| -> Result<Vec<String>> { Ok(prompted(&named(names), &map)?.into_iter().map(|(role, _)| role).collect()) };
        for (names, expected) in [
            (&["anchor", "positive"][..], &["anchor", "positive"][..]),
            (&["query", "document", "hard_negative"], &["anchor", "positive", "negative"]),
            (&["Question", "answer", "negative_2"], &["anchor", "positive", "negative_2"]),
            (&["text1", "text_b"], &["sentence1", "sentence2"]),
            (&["headline"], &["anchor"]),
        ] {
            assert_eq!(roles(names).expect("roles"), expected, "{names:?}");
        }
        for (names, expected) in
            [(&["foo"][..], "foo"), (&["score"], "score"), (&["query", "anchor"], "both"), (&["anchor", "anchor"], "both")]
        {
            let error = roles(names).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{names:?}: {error}");
        }
    }

    #[test]
    fn the_prompt_of_negatives_is_that_of_each_which_has_none_of_its_own() {
        let loss = LossPlan { prompts: named(&["hard_negative", "negative_2", "sentence1"]), ..LossPlan::default() };
        let found = ["negative", "negative_1", "negative_2", "anchor"].map(|column| of(&loss, column));
        assert_eq!(found, ["hard_negative: ", "hard_negative: ", "negative_2: ", ""]);
        assert_eq!(unused(&loss, &["anchor", "positive"].into()).expect("roles"), ["sentence1"]);
        let loss =
            LossPlan { prompts: vec![("anchor".to_owned(), String::new())], recorded_prompts: named(&["anchor", "positive"]), ..loss };
        assert_eq!(["anchor", "positive"].map(|column| of(&loss, column)), ["", "positive: "], "asked for comes before the folder's");
        assert_eq!(unused(&loss, &["anchor"].into()).expect("roles"), [""; 0]);
    }
}
