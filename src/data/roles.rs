//! What columns are for: their roles by name, by other names that people give them, and by `--map`; what is not read is told, and what would change
//! what is learnt if it were read is refused.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::column_map::Renamed;
use super::fields::json;
use super::forms as words;
use super::meanings::{meaning, plain, refuse_meaning};
use super::other_forms::translate;
use super::prompts;
use super::reading::Reading;
use super::record::{Record, Survey};
use super::role_names::ROLES;
use super::task_columns::{WEIGHTS, of_task};
use super::template::columns_of;
use super::weights;
use crate::adapter::config::Task;
use crate::anatomy::{MaskForm, Role};
use crate::error::{Error, Place, Result};

/// The role of a column that is left out on purpose.
pub(super) const IGNORED: &str = "ignore";

/// Columns that have a role under other names, by task.
struct Alias {
    columns: &'static [&'static str],
    roles: &'static [&'static str],
}

/// What texts that are classified are called; of two that fit, the one with more columns.
const TEXTS: [Alias; 9] = [
    Alias { columns: &["sentence"], roles: &["text"] },
    Alias { columns: &["sentence1", "sentence2"], roles: &["text", "text_pair"] },
    Alias { columns: &["premise", "hypothesis"], roles: &["text", "text_pair"] },
    Alias { columns: &["text1", "text2"], roles: &["text", "text_pair"] },
    Alias { columns: &["text_a", "text_b"], roles: &["text", "text_pair"] },
    Alias { columns: &["question1", "question2"], roles: &["text", "text_pair"] },
    Alias { columns: &["question", "answer"], roles: &["text", "text_pair"] },
    Alias { columns: &["question", "sentence"], roles: &["text", "text_pair"] },
    Alias { columns: &["query", "passage"], roles: &["text", "text_pair"] },
];

/// What the columns of a file are for.
pub(super) struct Assigned<'a> {
    roles: Roles<'a>,
    renamed: BTreeMap<String, String>,
    /// Columns that nothing has read so far.
    unread: BTreeSet<String>,
}

/// Finds out what the columns of a file are for.
///
/// # Errors
/// Names of columns or roles that there are not; columns of which several could have one role.
pub(super) fn assign<'a>(survey: &Survey, path: &'a Path, reading: &'a Reading<'a>) -> Result<Assigned<'a>> {
    let shown = reading.hard_prompt.map(columns_of).transpose()?.unwrap_or_default();
    let roles = Roles { path, columns: survey.columns.keys().cloned().collect(), shown, reading };
    let renamed = roles.renamed(|column| survey.columns.get(column).copied().unwrap_or(true))?;
    let named = roles.columns.iter().map(|column| renamed.get(column).unwrap_or(column).as_str()).collect();
    for unused in prompts::unused(reading.loss, &named)? {
        tracing::warn!("{}: no column is {unused}: its prompt is in front of nothing", path.display());
    }
    Ok(Assigned { roles, renamed, unread: BTreeSet::new() })
}

impl Assigned<'_> {
    /// Gives the columns of a row the names of their roles, leaves out those that are to be ignored, and translates forms of other programs.
    ///
    /// # Errors
    /// A row of such a form that is not whole, with the line.
    pub(super) fn read(&self, record: &mut Record) -> Result<()> {
        if !self.renamed.is_empty() {
            let renamed = std::mem::take(&mut record.fields).into_iter();
            let renamed = renamed.map(|(name, value)| (self.renamed.get(&name).cloned().unwrap_or(name), value));
            record.fields = renamed.filter(|(name, _)| name != IGNORED).collect();
        }
        translate(&mut record.fields, self.roles.reading).map_err(|error| error.at(Place::Line(record.line)))
    }

    /// Notes the columns of a row that nothing reads.
    ///
    /// # Errors
    /// Columns with a meaning that the task does not use, with the line.
    pub(super) fn note(&mut self, record: &Record) -> Result<()> {
        let mut found = vec![];
        let unread = self.roles.unread(&record.fields);
        let all: HashSet<&str> = unread.iter().copied().collect();
        for role in unread {
            // Columns are told by the names that the file gives them.
            let column = self.renamed.iter().find_map(|(column, of)| (of == role).then_some(column.as_str())).unwrap_or(role);
            if !self.roles.is_spare(role, &record.fields, &all) {
                refuse_meaning(role, column, self.roles.reading).map_err(|error| error.at(Place::Line(record.line)))?;
            }
            if !self.unread.contains(column) {
                found.push(column.to_owned());
            }
        }
        self.unread.extend(found);
        Ok(())
    }

    /// Tells which columns nothing reads.
    pub(super) fn tell(&self) {
        if !self.unread.is_empty() {
            let names = self.unread.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!("{}: columns that nothing reads are ignored: {names}", self.roles.path.display());
        }
    }
}

/// The columns of a file, and what they are wanted for.
struct Roles<'a> {
    path: &'a Path,
    columns: Vec<String>,
    /// Columns that a template shows.
    shown: Vec<String>,
    reading: &'a Reading<'a>,
}

impl Roles<'_> {
    /// The roles of columns that are not called by them.
    fn renamed(&self, has_numbers: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>> {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for Renamed { column, role } in &self.reading.columns.given {
            let found = self
                .columns
                .iter()
                .find(|known| *known == column)
                .or_else(|| self.columns.iter().find(|known| plain(known) == plain(column)));
            let Some(found) = found else {
                let error = Error::not_found("column", column.as_str());
                return Err(error.with_hint(format!("`map` names a column of the data, which has {}", self.columns.join(", "))));
            };
            if role != IGNORED && !self.is_role(role) {
                let roles = self.roles().collect::<Vec<_>>().join(", ");
                return Err(Error::not_found("role", role.as_str()).with_hint(format!("roles of columns are {roles}, and {IGNORED}")));
            }
            let other = renamed.iter().find(|(other, given)| *given == role && role != IGNORED && *other != found);
            if let Some((other, _)) = other {
                let error = Error::invalid(format!("the columns {other} and {found} are both mapped to {role}"));
                return Err(error.with_hint("a role has one column: `map COLUMN=ignore` leaves one out"));
            }
            renamed.insert(found.clone(), role.clone());
        }
        // A column whose name a renamed one takes is no longer meant by it.
        let taken: Vec<String> = renamed.values().cloned().collect();
        for column in self.columns.iter().filter(|column| taken.contains(column)) {
            if let Entry::Vacant(place) = renamed.entry(column.clone()) {
                tracing::warn!("{}: the column {column} is ignored: another one is mapped to {column}", self.path.display());
                place.insert(IGNORED.to_owned());
            }
        }
        let is_free = |role: &str, renamed: &BTreeMap<String, String>| {
            !self.columns.iter().any(|column| column == role) && !renamed.values().any(|taken| taken == role)
        };
        for Renamed { column, role } in &self.reading.columns.kept {
            let found = self.columns.iter().find(|known| plain(known) == plain(column) && !renamed.contains_key(*known));
            let fits = role == IGNORED || (self.is_role(role) && is_free(role, &renamed));
            if let Some(found) = found.filter(|_| fits) {
                tracing::info!("{}: column {found} as {role}, as in the data of the training", self.path.display());
                renamed.insert(found.clone(), role.clone());
            }
        }
        for column in self.columns.iter().filter(|column| !is_input(column, self.reading)) {
            let role = plain(column);
            if role != *column && !renamed.contains_key(column) && self.is_role(&role) && is_free(&role, &renamed) {
                renamed.insert(column.clone(), role);
            }
        }
        for (column, role) in self.inputs() {
            if role != column && is_free(role, &renamed) && !renamed.contains_key(column) && has_numbers(column) {
                renamed.insert(column.to_owned(), role.to_owned());
            }
        }
        if self.reads_texts() && is_free("text", &renamed) {
            self.alias(&mut renamed)?;
        }
        let weighs = Some(&(weights::COLUMN, WEIGHTS)).filter(|_| self.reading.weighs_rows());
        for (role, names) in of_task(self.reading.task).into_iter().flat_map(|columns| columns.aliases).chain(weighs) {
            let is_taken = self.columns.iter().any(|column| column == role && !renamed.contains_key(column))
                || renamed.values().any(|taken| taken == role);
            // Of a reranker's rows the text may be the passage, where there is a query; a role is no other role's name.
            let free = |name: &&&str| {
                self.columns
                    .iter()
                    .find(|column| plain(column) == ***name && !renamed.contains_key(*column) && !is_input(column, self.reading))
            };
            let found = names.iter().find_map(|name| free(&name));
            if let Some(column) = found.filter(|_| !is_taken || (*role == "text" && self.reading.task == Task::Rerank)).cloned() {
                tracing::info!("{}: column {column} as {role}", self.path.display());
                if *role == "text" && is_taken && self.columns.iter().any(|column| column == "text") {
                    renamed.insert("text".to_owned(), "text_pair".to_owned());
                }
                renamed.insert(column, (*role).to_owned());
            }
        }
        Ok(renamed)
    }

    /// Texts under another name.
    fn alias(&self, renamed: &mut BTreeMap<String, String>) -> Result<()> {
        let is_free = |column: &&String| !renamed.contains_key(*column) && !is_input(column, self.reading);
        let column = |name: &str| self.columns.iter().filter(|column| plain(column) == name).find(is_free);
        let fitting: Vec<&Alias> = TEXTS.iter().filter(|alias| alias.columns.iter().all(|name| column(name).is_some())).collect();
        let within = |small: &Alias, large: &Alias| {
            small.columns.len() < large.columns.len() && small.columns.iter().all(|name| large.columns.contains(name))
        };
        let widest: Vec<&&Alias> = fitting.iter().filter(|alias| !fitting.iter().any(|other| within(alias, other))).collect();
        let alias = match widest[..] {
            [] => return Ok(()),
            [alias] => alias,
            _ => {
                let names = widest.iter().map(|alias| alias.columns.join(" + ")).collect::<Vec<_>>().join(", or ");
                let error = Error::invalid(format!("the text could be {names}"));
                return Err(error.with_hint("`map COLUMN=text` says which, and `map COLUMN=text_pair` which is the second one"));
            }
        };
        let pairs: Vec<(String, String)> =
            alias.columns.iter().zip(alias.roles).filter_map(|(name, role)| Some((column(name)?.clone(), (*role).to_owned()))).collect();
        let told = pairs.iter().map(|(column, role)| format!("{column} as {role}")).collect::<Vec<_>>().join(" and ");
        if pairs.len() == 1 {
            tracing::info!("{}: column {told}", self.path.display());
        } else {
            tracing::warn!("{}: {told} are read, as one input of two texts", self.path.display());
        }
        renamed.extend(pairs);
        Ok(())
    }

    /// The model's own inputs that are columns here, with the usual name of what they are for.
    fn inputs(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let of_tokens = |role: Role| {
            matches!(
                role,
                Role::InputIds | Role::AttentionMask(MaskForm::Seen) | Role::TokenTypeIds | Role::DecoderInputIds | Role::PixelValues
            )
        };
        let inputs = self.reading.feeding.into_iter().flat_map(|feeding| &feeding.inputs).filter(move |(_, role)| of_tokens(**role));
        let inputs = inputs.filter_map(|(name, role)| Some((name.as_str(), role.column()?)));
        // Of several inputs that are for the same, each has a column of its own name.
        let of_role = |wanted: &str| {
            self.reading
                .feeding
                .into_iter()
                .flat_map(|feeding| feeding.inputs.values())
                .filter(|role| role.column() == Some(wanted))
                .count()
        };
        let inputs = inputs.filter(move |(_, role)| of_role(role) == 1);
        inputs.filter(|(name, _)| self.columns.iter().any(|column| column == name))
    }

    /// Whether rows may be texts that are called otherwise.
    fn reads_texts(&self) -> bool {
        match self.reading.hard_prompt {
            Some(_) => self.shown.iter().any(|column| column == "text"),
            None => matches!(self.reading.task, Task::SeqCls | Task::MultiLabel | Task::Regression),
        }
    }

    fn roles(&self) -> impl Iterator<Item = &str> {
        ROLES.into_iter().chain(self.shown.iter().map(String::as_str).filter(|shown| !ROLES.contains(shown)))
    }

    fn is_role(&self, name: &str) -> bool {
        self.roles().any(|role| role == name)
    }

    /// The columns of a row that have a value which its form does not read.
    fn unread<'r>(&self, fields: &'r Map<String, Value>) -> Vec<&'r str> {
        let has = |name: &str| fields.contains_key(name) && !is_input(name, self.reading);
        let label = if has("label") { "label" } else { "labels" };
        let is_classed = self.reading.task.is_one_class();
        if let Some(columns) = of_task(self.reading.task).filter(|_| self.reading.hard_prompt.is_none()) {
            // Of two answers the better one is known: only one answer has a label.
            let is_of_other_form = |name: &str| has("chosen") && matches!(name, "label" | "completion");
            let is_read = |name: &str| {
                let numbered =
                    name.rsplit_once('_').filter(|(_, number)| number.parse::<u32>().is_ok()).map(|(name, _)| format!("{name}_*"));
                (columns.read.contains(&name) && !is_of_other_form(name))
                    || self.is_weight(name)
                    || self.is_text_of_vector(name)
                    || self.is_picture(name, fields)
                    || numbered.is_some_and(|name| columns.read.contains(&name.as_str()))
            };
            let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
            return fields
                .iter()
                .filter(|(name, value)| !is_read(name) && !is_input(name, self.reading) && !is_empty(value))
                .map(|(name, _)| name.as_str())
                .collect();
        }
        let read: Vec<&str> = if self.reading.hard_prompt.is_some() && !has("input_ids") {
            self.shown.iter().map(String::as_str).chain([label]).collect()
        } else if has("input_ids") {
            vec!["input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", if is_classed { label } else { "labels" }]
        } else if self.reading.task.labels_texts() && (has("image") || has("audio")) {
            vec!["image", "audio", "text"]
        } else if has("messages") {
            vec!["messages", "tools", "documents"]
        } else if has("prompt") && has("completion") {
            // A template is shown what stands beside messages.
            let beside: &[&str] = if json(&fields["prompt"]).is_array() { &["tools", "documents"] } else { &[] };
            [&["prompt", "completion"], beside].concat()
        } else if has("text") {
            vec!["text", "text_pair", if is_classed { label } else { "" }]
        } else if has("pixel_values") || has("image") {
            vec!["pixel_values", "image", label]
        } else {
            if fields.keys().any(|name| is_input(name, self.reading)) {
                return vec![];
            }
            // No form: encoding says so, unless a column has a meaning that tells more.
            return fields.keys().map(String::as_str).filter(|name| meaning(name).is_some_and(|_| !is_classed || *name != label)).collect();
        };
        let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
        let sees = self.reading.feeding.is_some_and(|feeding| feeding.pictures.is_some());
        let is_read =
            |name: &str| read.contains(&name) || is_input(name, self.reading) || (sees && name == "image") || self.is_weight(name);
        fields.iter().filter(|(name, value)| !is_read(name) && !is_empty(value)).map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a column is the picture of a row without a text, whose labels are numbers or several.
    fn is_picture(&self, name: &str, fields: &Map<String, Value>) -> bool {
        let is_labelled_so = matches!(self.reading.task, Task::MultiLabel | Task::Regression);
        is_labelled_so && matches!(name, "image" | "pixel_values") && !fields.contains_key("text") && !fields.contains_key("input_ids")
    }

    /// Whether a column is a text that a teacher's vector stands beside: any, not two that are compared.
    fn is_text_of_vector(&self, name: &str) -> bool {
        self.reading.task == Task::Embedding && self.reading.loss.name == "mse" && matches!(name, "text" | "sentence")
    }

    /// Whether a column says what rows weigh, where they may weigh differently.
    fn is_weight(&self, name: &str) -> bool {
        self.reading.weighs_rows() && name == weights::COLUMN
    }

    /// Whether a column that is not read has a role that another column of the row has, under the role's own name, and there it is read: tags beside
    /// the labels that were made of them, the class of a row whose tokens have labels.
    fn is_spare(&self, column: &str, fields: &Map<String, Value>, unread: &HashSet<&str>) -> bool {
        let name = plain(column);
        let is_read = |role: &str| fields.contains_key(role) && !unread.contains(role);
        let aliases = of_task(self.reading.task).map(|columns| columns.aliases).unwrap_or_default();
        let is_other_name = |(role, names): &(&str, &[&str])| names.contains(&name.as_str()) && is_read(role);
        let of_tokens = name == "label" && !self.reading.task.is_one_class() && is_read("labels");
        of_tokens || aliases.iter().any(is_other_name)
    }
}

/// Whether a column goes as it is to an input of the model that has its name. A name that is a role's is an input's where the graph reads numbers of that name
/// and the task has no use for the role.
pub(super) fn is_input(column: &str, reading: &Reading<'_>) -> bool {
    let Some(role) = reading.feeding.and_then(|feeding| feeding.inputs.get(column)) else { return false };
    let is_spare = || *role == Role::Column && !has_use(reading.task, column);
    column == weights::COLUMN || !ROLES.contains(&column) || is_spare()
}

/// Columns of the rows that language models and classifiers share.
const SHARED: [&str; 15] = [
    "text",
    "label",
    "labels",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "decoder_input_ids",
    "pixel_values",
];

/// Whether a task reads a column of this name, as a role or in a role's place.
fn has_use(task: Task, column: &str) -> bool {
    match of_task(task) {
        Some(columns) => columns.read.contains(&column) || columns.aliases.iter().any(|(_, names)| names.contains(&column)),
        None => SHARED.contains(&column),
    }
}

/// A row of no form that the task has.
pub(super) fn no_form(fields: &Map<String, Value>, task: Task) -> Error {
    let names: Vec<String> = fields.keys().take(12).map(|name| name.chars().take(40).collect()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::mismatch("columns", words(task), found).with_hint(format!(
        "columns that are read: {}; `map COLUMN=ROLE` says what another is for, and the first line of a table names its columns",
        words(task)
    ))
}

/// A row without a label.
pub(super) fn no_label(fields: &Map<String, Value>) -> Error {
    let names: Vec<&str> = fields.keys().map(String::as_str).filter(|name| *name != "text").take(12).collect();
    let error = Error::not_found("column", "label");
    if names.is_empty() {
        return error.with_hint("each row needs its class in a column label");
    }
    error.with_hint(format!("if one of {} has the class, `map COLUMN=label` says so", names.join(", ")))
}
