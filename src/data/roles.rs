//! What columns are for: their roles by name, by other names that people give them, and by `--map`; what is not read is told, and what would change
//! what is learnt if it were read is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::column_map::Renamed;
use super::forms;
use super::reading::Reading;
use super::record::Record;
use super::template::columns_of;
use crate::adapter::config::Task;
use crate::anatomy::{MaskForm, Role};
use crate::error::{Error, Place, Result};

/// What `--map COLUMN=ROLE` may name; besides, the columns of a template.
const ROLES: [&str; 32] = [
    "text",
    "text_pair",
    "label",
    "labels",
    "prompt",
    "completion",
    "messages",
    "tools",
    "documents",
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "decoder_input_ids",
    "pixel_values",
    "query",
    "passage",
    "anchor",
    "positive",
    "negative",
    "sentence1",
    "sentence2",
    "score",
    "question",
    "context",
    "answers",
    "tokens",
    "tags",
    "entities",
    "chosen",
    "rejected",
    "image",
    "audio",
];

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

/// What rows of a task have: the columns that are read, and other names that people give them. What else a row has is not read.
struct Columns {
    task: Task,
    /// Columns by their roles; those with a `*` behind them are followed by a number.
    read: &'static [&'static str],
    /// Roles and the names that stand for them where the role's own is not there.
    aliases: &'static [(&'static str, &'static [&'static str])],
}

const TEXT_ROLES: &[&str] = &["text", "text_pair", "label", "labels", "input_ids", "attention_mask", "token_type_ids"];

/// Tasks whose rows are not those that language models and classifiers share.
const TASK_COLUMNS: [Columns; 11] = [
    Columns { task: Task::MultiLabel, read: TEXT_ROLES, aliases: &[] },
    Columns { task: Task::Regression, read: TEXT_ROLES, aliases: &[("label", &["score"])] },
    Columns {
        task: Task::Rerank,
        read: &["text", "text_pair", "label", "labels"],
        aliases: &[
            ("text", &["query", "question"]),
            ("text_pair", &["passage", "document", "answer", "text"]),
            ("label", &["score", "relevance"]),
        ],
    },
    Columns {
        task: Task::TokenCls,
        read: &["tokens", "labels", "text", "entities", "input_ids", "attention_mask", "token_type_ids"],
        aliases: &[("tokens", &["words"]), ("labels", &["tags", "ner_tags"])],
    },
    Columns { task: Task::Qa, read: &["question", "context", "answers", "id", "title"], aliases: &[] },
    Columns {
        task: Task::Embedding,
        read: &["anchor", "positive", "negative", "negative_*", "sentence1", "sentence2", "score", "label"],
        aliases: &[
            ("sentence1", &["text1", "text_a"]),
            ("sentence2", &["text2", "text_b"]),
            ("anchor", &["query", "question"]),
            ("positive", &["passage", "document", "answer"]),
            ("negative", &["hard_negative"]),
            ("score", &["similarity", "label"]),
        ],
    },
    Columns {
        task: Task::Preference,
        read: &["prompt", "chosen", "rejected", "completion", "label"],
        aliases: &[("prompt", &["question", "instruction"])],
    },
    Columns { task: Task::Reward, read: &["prompt", "chosen", "rejected"], aliases: &[("prompt", &["question", "instruction"])] },
    Columns { task: Task::AudioCls, read: &["audio", "label", "labels"], aliases: &[("audio", &["file", "path"])] },
    Columns { task: Task::Ctc, read: &["audio", "text", "labels"], aliases: HEARD },
    Columns { task: Task::SpeechSeq2Seq, read: &["audio", "text", "labels", "decoder_input_ids"], aliases: HEARD },
];

/// Names that sounds and what is said in them have in data of speech.
const HEARD: &[(&str, &[&str])] =
    &[("audio", &["file", "path"]), ("text", &["sentence", "transcription", "transcript", "normalized_text"])];

fn of_task(task: Task) -> Option<&'static Columns> {
    TASK_COLUMNS.iter().find(|columns| columns.task == task)
}

/// Columns that say something about what should be learnt, and what to do where a task does not read them.
struct Meaning {
    columns: &'static [&'static str],
    what: &'static str,
    hint: &'static str,
}

const MEANINGS: [Meaning; 11] = [
    Meaning {
        columns: &["label", "labels"],
        what: "a label, which this form of rows does not learn",
        hint: "`peft-onnx inject --task seq-cls` learns classes; for answers that were approved or not, `--task preference --loss kto`, or keep the approved ones",
    },
    Meaning {
        columns: &["chosen", "rejected"],
        what: "a preference, which this task does not learn",
        hint: "`peft-onnx inject --task preference` or `--task reward` learns it; to learn the chosen answers alone: --map chosen=completion --map rejected=ignore",
    },
    Meaning {
        columns: &["text_pair", "text2", "text_b", "sentence2", "second_text", "hypothesis", "question2"],
        what: "a second text, which is not read here",
        hint: "a classifier reads two texts as text and text_pair: --map COLUMN=text_pair",
    },
    Meaning {
        columns: &["anchor", "positive", "negative", "negatives", "hard_negative"],
        what: "a text to be near or far from, which this task does not learn",
        hint: "`peft-onnx inject --task embedding` learns it",
    },
    Meaning {
        columns: &["teacher_logits", "teacher_scores", "teacher_probs"],
        what: "a teacher's answer, which this task does not learn",
        hint: "with classes, `peft-onnx inject --distill-weight 0.5` learns the column teacher_logits beside the labels",
    },
    Meaning {
        columns: &["score", "scores", "similarity"],
        what: "a number to be predicted, which this task does not learn",
        hint: "if it is the number of a class: --map COLUMN=label; `peft-onnx inject --task regression`, `rerank` and `embedding` learn numbers",
    },
    Meaning {
        columns: &["weight", "weights", "sample_weight", "loss_weight"],
        what: "the weight of a row, and all rows weigh the same here",
        hint: "leave out rows of weight 0, and repeat rows that should count more; an assistant's message may have a weight of 0 or 1",
    },
    Meaning {
        columns: &["tools", "functions", "documents"],
        what: "something that only a chat template shows",
        hint: "write messages, and the tools or documents beside them",
    },
    Meaning {
        columns: &["loss_mask", "completion_mask", "assistant_mask", "assistant_masks"],
        what: "a choice of tokens to learn, which is not read",
        hint: "write labels beside input_ids, with -100 where nothing is to be learnt",
    },
    Meaning {
        columns: &["answers", "answer_start", "start_positions", "end_positions", "entities", "ner_tags", "tags"],
        what: "an answer or a tag within the text, which this task does not learn",
        hint: "`peft-onnx inject --task qa` learns answers, `--task token-cls` tags and entities",
    },
    Meaning {
        columns: &["image", "images", "audio"],
        what: "something to look at or to listen to, which is not read",
        hint: "image-cls and audio-cls read pictures and sounds",
    },
];

/// Gives the columns of rows the names of their roles, and leaves out those that are to be ignored.
///
/// # Errors
/// Names of columns or roles that there are not; columns of which several could have one role; columns with a meaning that the task does not use,
/// with their line.
pub(super) fn assign(records: &mut [Record], path: &Path, reading: &Reading<'_>) -> Result<()> {
    let shown = reading.hard_prompt.map(columns_of).transpose()?.unwrap_or_default();
    let columns: IndexMap<String, ()> = records.iter().flat_map(|record| record.fields.keys().cloned()).map(|name| (name, ())).collect();
    let roles = Roles { path, columns: columns.into_keys().collect(), shown: &shown, reading };
    let is_list = |value: &Value| value.is_array() || value.as_str().is_some_and(|cell| cell.trim_start().starts_with('['));
    let renamed = roles.renamed(|column| records.iter().filter_map(|record| record.fields.get(column)).take(1).all(is_list))?;
    if !renamed.is_empty() {
        for record in &mut *records {
            let fields = std::mem::take(&mut record.fields).into_iter();
            let fields = fields.map(|(name, value)| (renamed.get(&name).cloned().unwrap_or(name), value));
            record.fields = fields.filter(|(name, _)| name != IGNORED).collect();
        }
    }
    let mut unread = BTreeSet::new();
    for record in &*records {
        for role in roles.unread(&record.fields) {
            // Columns are told by the names that the file gives them.
            let column = renamed.iter().find_map(|(column, of)| (of == role).then_some(column.as_str())).unwrap_or(role);
            if !roles.is_spare(role, &record.fields) {
                refuse_meaning(role, column, reading.task).map_err(|error| error.at(Place::Line(record.line)))?;
            }
            unread.insert(column.to_owned());
        }
    }
    if !unread.is_empty() {
        let names = unread.into_iter().take(12).collect::<Vec<_>>().join(", ");
        tracing::warn!("{}: columns that nothing reads are ignored: {names}", path.display());
    }
    Ok(())
}

/// The columns of a file, and what they are wanted for.
struct Roles<'a> {
    path: &'a Path,
    columns: Vec<String>,
    /// Columns that a template shows.
    shown: &'a [String],
    reading: &'a Reading<'a>,
}

impl<'a> Roles<'a> {
    /// The roles of columns that are not called by them.
    fn renamed(&'a self, has_numbers: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>> {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for Renamed { column, role } in &self.reading.columns.0 {
            let found = self
                .columns
                .iter()
                .find(|known| *known == column)
                .or_else(|| self.columns.iter().find(|known| plain(known) == plain(column)));
            let Some(found) = found else {
                let error = Error::not_found("column", column.as_str());
                return Err(error.with_hint(format!("--map names a column of the data, which has {}", self.columns.join(", "))));
            };
            if role != IGNORED && !self.is_role(role) {
                let roles = self.roles().collect::<Vec<_>>().join(", ");
                return Err(Error::not_found("role", role.as_str()).with_hint(format!("roles of columns are {roles}, and {IGNORED}")));
            }
            renamed.insert(found.clone(), role.clone());
        }
        // A column whose name a renamed one takes is no longer meant by it.
        let taken: Vec<String> = renamed.values().cloned().collect();
        for column in self.columns.iter().filter(|column| taken.contains(column)) {
            renamed.entry(column.clone()).or_insert_with(|| IGNORED.to_owned());
        }
        let is_free = |role: &str, renamed: &BTreeMap<String, String>| {
            !self.columns.iter().any(|column| column == role) && !renamed.values().any(|taken| taken == role)
        };
        for column in &self.columns {
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
        for (role, names) in of_task(self.reading.task).into_iter().flat_map(|columns| columns.aliases) {
            let is_taken = self.columns.iter().any(|column| column == role && !renamed.contains_key(column))
                || renamed.values().any(|taken| taken == role);
            // Of a reranker's rows the text may be the passage, where there is a query; a role is no other role's name.
            let free = |name: &&&str| self.columns.iter().find(|column| plain(column) == ***name && !renamed.contains_key(*column));
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
        let column = |name: &str| self.columns.iter().find(|column| plain(column) == name && !renamed.contains_key(*column));
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
                return Err(error.with_hint("--map COLUMN=text says which, and --map COLUMN=text_pair which is the second one"));
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
        let has = |name: &str| fields.contains_key(name);
        let label = if has("label") { "label" } else { "labels" };
        let is_classed = self.reading.task.is_one_class();
        if let Some(columns) = of_task(self.reading.task).filter(|_| self.reading.hard_prompt.is_none()) {
            let is_read = |name: &str| {
                let numbered =
                    name.rsplit_once('_').filter(|(_, number)| number.parse::<u32>().is_ok()).map(|(name, _)| format!("{name}_*"));
                columns.read.contains(&name) || numbered.is_some_and(|name| columns.read.contains(&name.as_str()))
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
        } else if has("pixel_values") || has("image") {
            vec!["pixel_values", "image", label]
        } else if has("messages") {
            vec!["messages", "tools", "documents"]
        } else if has("prompt") && has("completion") {
            vec!["prompt", "completion"]
        } else if has("text") {
            vec!["text", "text_pair", if is_classed { label } else { "" }]
        } else {
            if fields.keys().any(|name| is_input(name, self.reading)) {
                return vec![];
            }
            // No form: encoding says so, unless a column has a meaning that tells more.
            return fields.keys().map(String::as_str).filter(|name| meaning(name).is_some_and(|_| !is_classed || *name != label)).collect();
        };
        let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
        let is_read = |name: &str| read.contains(&name) || is_input(name, self.reading);
        fields.iter().filter(|(name, value)| !is_read(name) && !is_empty(value)).map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a column that is not read has a role that another column of the row has, under the role's own name, and there it is read: tags beside
    /// the labels that were made of them, the class of a row whose tokens have labels.
    fn is_spare(&self, column: &str, fields: &Map<String, Value>) -> bool {
        let name = plain(column);
        let unread = self.unread(fields);
        let is_read = |role: &str| fields.contains_key(role) && !unread.contains(&role);
        let aliases = of_task(self.reading.task).map(|columns| columns.aliases).unwrap_or_default();
        let is_other_name = |(role, names): &(&str, &[&str])| names.contains(&name.as_str()) && is_read(role);
        let of_tokens = name == "label" && !self.reading.task.is_one_class() && is_read("labels");
        of_tokens || aliases.iter().any(is_other_name)
    }
}

/// Whether a column goes as it is to an input of the model that has its name.
pub(super) fn is_input(column: &str, reading: &Reading<'_>) -> bool {
    !ROLES.contains(&column) && reading.feeding.is_some_and(|feeding| feeding.inputs.contains_key(column))
}

/// A name without what people change in it: capitals, spaces.
pub(super) fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

fn meaning(column: &str) -> Option<&'static Meaning> {
    let name = plain(column);
    let numbered = name.rsplit_once('_').filter(|(_, number)| number.parse::<u8>().is_ok()).map(|(name, _)| name.to_owned());
    let is_named = |meaning: &&Meaning| {
        meaning.columns.contains(&name.as_str()) || numbered.as_deref() == Some("negative") && meaning.columns.contains(&"negative")
    };
    MEANINGS.iter().find(is_named)
}

fn refuse_meaning(role: &str, column: &str, task: Task) -> Result<()> {
    let Some(Meaning { what, hint, .. }) = meaning(role) else { return Ok(()) };
    let hint = format!("{}; --map \"{column}=ignore\" leaves it out", hint.replace("COLUMN", column));
    Err(Error::unsupported(format!("the column {column} for {}", task.name()), format!("it is {what}")).with_hint(hint))
}

/// A row of no form that the task has.
pub(super) fn no_form(fields: &Map<String, Value>, task: Task) -> Error {
    let names: Vec<String> = fields.keys().take(12).map(|name| name.chars().take(40).collect()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::mismatch("columns", forms(task), found).with_hint(format!(
        "columns that are read: {}; --map COLUMN=ROLE says what another is for, and the first line of a table names its columns",
        forms(task)
    ))
}

/// A row without a label.
pub(super) fn no_label(fields: &Map<String, Value>) -> Error {
    let names: Vec<&str> = fields.keys().map(String::as_str).filter(|name| *name != "text").take(12).collect();
    let error = Error::not_found("column", "label");
    if names.is_empty() {
        return error.with_hint("each row needs its class in a column label");
    }
    error.with_hint(format!("if one of {} has the class, --map COLUMN=label says so", names.join(", ")))
}
