//! Rows of data files → numbers: one function for each form that a row can have.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::chat::{Conversation, Message};
use super::classes::unknown;
use super::example::{Example, IGNORED, Labels, Numbers, Pixels};
use super::roles::{is_input, no_form, no_label};
use super::template::from_template;
use super::tokenizer::{Specials, Tokenizer, Tokens};
use super::{Packing, Reading, forms, rows};
use crate::adapter::config::Task;
use crate::error::{Error, Result};

type Fields = Map<String, Value>;

/// A form that rows can have: the columns by which it is known, and how it is read.
struct Form {
    columns: &'static [&'static str],
    read: fn(&Fields, &Encoder<'_>) -> Result<Example>,
}

/// Every form, the most explicit first.
const FORMS: [Form; 5] = [
    Form { columns: &["input_ids"], read: from_tokens },
    Form { columns: &["pixel_values"], read: from_pixels },
    Form { columns: &["messages"], read: from_messages },
    Form { columns: &["prompt", "completion"], read: from_prompt },
    Form { columns: &["text"], read: from_text },
];

/// What rows are read with.
pub(super) struct Encoder<'a> {
    pub reading: &'a Reading<'a>,
    /// The numbers of class names, if labels are names.
    pub classes: Option<BTreeMap<String, i32>>,
    /// The data file's folder.
    pub folder: PathBuf,
}

impl<'a> Encoder<'a> {
    /// One row as numbers.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) or [`Mismatch`](crate::ErrorKind::Mismatch) for a row of no known form, or with values of the wrong
    /// type, or one that does not go with the task.
    pub(super) fn encode(&self, fields: &Fields) -> Result<Example> {
        if let Some(prompt) = self.reading.hard_prompt.filter(|_| !fields.contains_key("input_ids")) {
            let class = self.class(fields)?;
            return from_template(prompt, fields, class, self.tokenizer()?, self.task(), self.reading.max_length);
        }
        let form = FORMS.iter().find(|form| form.columns.iter().all(|column| fields.contains_key(*column)));
        let columns = self.columns(fields)?;
        let own = rows::reader(self.task(), fields);
        let example = match form {
            _ if own.is_some() => own.map_or_else(|| Ok(Example::default()), |read| read(fields, self))?,
            Some(form) => (form.read)(fields, self)?,
            None if columns.is_empty() => return Err(no_form(fields, self.task())),
            None => Example { labels: self.labels(fields, &[])?, ..Example::default() },
        };
        // What a task's reader made of a column is not undone.
        let columns = columns.into_iter().chain(example.columns).collect();
        Ok(Example { columns, ..example })
    }

    /// Columns that go to the model's own inputs of their names as they are.
    fn columns(&self, fields: &Fields) -> Result<BTreeMap<String, Numbers>> {
        let own = fields.iter().filter(|(name, value)| !value.is_null() && is_input(name, self.reading));
        let read = own.filter(|(_, value)| !is_text(value)).map(|(name, value)| {
            let mut numbers = Numbers::default();
            flatten(&json(value), 0, &mut numbers, name)?;
            Ok((name.clone(), numbers))
        });
        read.collect()
    }

    /// What is to be learnt of a row of numbers.
    fn labels(&self, fields: &Fields, input_ids: &[i32]) -> Result<Labels> {
        match self.task() {
            task if task.is_one_class() => Ok(Labels::Class(self.class(fields)?)),
            Task::CausalLm if !fields.contains_key("labels") => Ok(Labels::Tokens(input_ids.to_vec())),
            Task::MaskedLm if !fields.contains_key("labels") => Ok(Labels::Hidden),
            _ if !fields.contains_key("labels") => Err(Error::not_found("column", "labels")
                .with_hint("each row needs a label for each of its tokens, in a column labels; -100 where nothing is learnt")),
            _ => Ok(Labels::Tokens(numbers(fields, "labels")?)),
        }
    }

    fn task(&self) -> Task {
        self.reading.task
    }

    pub(super) fn tokenizer(&self) -> Result<&'a Tokenizer> {
        let missing = || Error::invalid("a row of text needs a tokenizer").with_hint("name one with --tokenizer FILE");
        let tokenizer = self.reading.tokenizer.ok_or_else(missing)?;
        tokenizer.check_fits(self.reading.limits.vocabulary)?;
        Ok(tokenizer)
    }

    /// Tokens of a row that can be kept at most; more are cut or an error. None: all are.
    fn most(&self) -> Option<usize> {
        if self.reading.packing == Packing::Concatenate { None } else { self.reading.max_length.or(self.reading.limits.positions) }
    }

    /// The class of a row, whose label is settled: a number, or a name.
    pub(super) fn class(&self, fields: &Fields) -> Result<i32> {
        let value = fields.get("label").ok_or_else(|| no_label(fields))?;
        let Value::String(name) = value else { return whole("label", value) };
        let classes = self.classes.iter().flatten();
        classes.clone().find(|(known, _)| *known == name).map(|(_, class)| *class).ok_or_else(|| {
            let mut known: Vec<(&String, &i32)> = classes.collect();
            known.sort_by_key(|(_, number)| **number);
            let error = unknown(name, known.into_iter().map(|(name, _)| name.as_str()));
            if self.reading.hard_prompt.is_some() { error.with_hint("every label needs its words in the verbalizer") } else { error }
        })
    }

    /// How many classes or numbers the model gives.
    ///
    /// # Errors
    /// A model that does not tell.
    pub(super) fn class_count(&self) -> Result<usize> {
        let told = self.reading.limits.classes;
        told.ok_or_else(|| {
            Error::unsupported("labels for this model", "it does not tell how many numbers it gives")
                .with_hint("export it with a known number of labels")
        })
    }

    /// The number of a label: a number, or a name.
    ///
    /// # Errors
    /// A name that no class has.
    pub(super) fn class_number(&self, label: &Value) -> Result<usize> {
        let number = self.class_of(label)?;
        usize::try_from(number).map_err(|_| Error::mismatch("a label", "0 or more", number))
    }

    /// The class of a tag: its number, or its name.
    ///
    /// # Errors
    /// A name that no class has.
    pub(super) fn class_of(&self, label: &Value) -> Result<i32> {
        let Value::String(name) = label else { return whole("a label", label) };
        let known = self.classes.iter().flatten().find(|(known, _)| *known == name).map(|(_, class)| *class);
        match (known, name.trim().parse()) {
            (Some(class), _) => Ok(class),
            (None, Ok(number)) if self.classes.is_none() => Ok(number),
            _ => {
                let mut names: Vec<(&String, &i32)> = self.classes.iter().flatten().collect();
                names.sort_by_key(|(_, number)| **number);
                Err(unknown(name, names.into_iter().map(|(name, _)| name.as_str())))
            }
        }
    }

    /// The class of a word that is (or is not) part of an entity: `B-PER`, `I-PER` or `O` where classes are called so, else the entity's label.
    ///
    /// # Errors
    /// An entity of no class.
    pub(super) fn tag(&self, entity: Option<&str>, begins: bool) -> Result<i32> {
        let is_known = |name: &str| self.classes.iter().flatten().any(|(known, _)| known == name);
        let Some(label) = entity else { return if is_known("O") { self.class_of(&"O".into()) } else { Ok(0) } };
        let marked = format!("{}-{label}", if begins { "B" } else { "I" });
        let name = [marked.as_str(), label].into_iter().find(|name| is_known(name)).unwrap_or(&marked).to_owned();
        self.class_of(&name.into())
    }

    /// A text of its own, with its special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(super) fn plain_text(&self, text: &str) -> Result<Example> {
        let mut tokens = self.tokenizer()?.encode_beginning(text, Specials::Added, self.most())?;
        tokens.keep_to(self.reading.max_length);
        Ok(Example { input_ids: tokens.ids, token_type_ids: tokens.segments, ..Example::default() })
    }

    /// `{"text", "text_pair"?}` or `{"input_ids", ..}`, without its label.
    ///
    /// # Errors
    /// A row of neither form.
    pub(super) fn text_or_tokens(&self, fields: &Fields) -> Result<Example> {
        if fields.contains_key("input_ids") {
            let (input_ids, attention_mask) = (numbers(fields, "input_ids")?, numbers(fields, "attention_mask")?);
            return Ok(Example { input_ids, attention_mask, token_type_ids: numbers(fields, "token_type_ids")?, ..Example::default() });
        }
        if !fields.contains_key("text") {
            return Err(no_form(fields, self.task()));
        }
        let text = string(fields, "text")?;
        if text.trim().is_empty() {
            return Err(Error::mismatch("text", "a text", "an empty one"));
        }
        if fields.get("text_pair").is_none_or(Value::is_null) {
            return self.plain_text(text);
        }
        let tokens = self.tokenizer()?.encode_pair(text, string(fields, "text_pair")?, self.reading.max_length)?;
        Ok(Example { input_ids: tokens.ids, token_type_ids: tokens.segments, ..Example::default() })
    }

    /// A file that a row names, beside the data file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The label that says where a text ends, so that the model learns to end there.
    fn end(&self, ids: &[i32]) -> Result<Option<i32>> {
        Ok(self.tokenizer()?.eos().filter(|eos| ids.last() != Some(eos)))
    }

    fn refuse(&self, form: &str) -> Error {
        Error::unsupported(format!("{form} for {}", self.task().name()), format!("its rows have {}", forms(self.task())))
    }
}

/// `{"input_ids", "attention_mask"?, "token_type_ids"?, "decoder_input_ids"?, "labels" or "label"?}`: used as it is.
fn from_tokens(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let input_ids = numbers(fields, "input_ids")?;
    let labels = encoder.labels(fields, &input_ids)?;
    Ok(Example {
        input_ids,
        attention_mask: numbers(fields, "attention_mask")?,
        token_type_ids: numbers(fields, "token_type_ids")?,
        decoder_input_ids: numbers(fields, "decoder_input_ids")?,
        labels,
        ..Example::default()
    })
}

/// `{"pixel_values": [[[..]]], "label"}`.
fn from_pixels(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let mut numbers = Numbers::default();
    flatten(&json(&fields["pixel_values"]), 0, &mut numbers, "pixel_values")?;
    let pixels = Pixels { shape: numbers.shape, values: numbers.values.into_iter().map(single).collect() };
    Ok(Example { pixel_values: Some(pixels), labels: Labels::Class(encoder.class(fields)?), ..Example::default() })
}

/// `{"text", "text_pair"?, "label"?}`: a document to learn, or a text to classify.
fn from_text(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let (tokenizer, text) = (encoder.tokenizer()?, string(fields, "text")?);
    let task = encoder.task();
    let mut tokens = match fields.get("text_pair").filter(|pair| !pair.is_null()) {
        None => tokenizer.encode_beginning(text, Specials::Added, encoder.most())?,
        Some(_) => tokenizer.encode_pair(text, string(fields, "text_pair")?, encoder.reading.max_length)?,
    };
    let labels = match task {
        Task::CausalLm => {
            tokens.ids.extend(encoder.end(&tokens.ids)?);
            tokens.segments.clear();
            Labels::Tokens(tokens.ids.clone())
        }
        Task::MaskedLm => Labels::Hidden,
        Task::SeqCls => Labels::Class(encoder.class(fields)?),
        _ => return Err(encoder.refuse("text")),
    };
    if task != Task::CausalLm {
        tokens.keep_to(encoder.reading.max_length);
    }
    Ok(Example { input_ids: tokens.ids, token_type_ids: tokens.segments, labels, ..Example::default() })
}

/// `{"prompt", "completion"}`: the completion is to be learnt, and where it ends.
fn from_prompt(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let (prompt, completion) = (string(fields, "prompt")?, string(fields, "completion")?);
    let tokenizer = encoder.tokenizer()?;
    match encoder.task() {
        Task::CausalLm => {
            // Encoded together, as it will be read; the token at the seam belongs to the completion if it reaches into it.
            let text = format!("{prompt}{completion}");
            let tokens = tokenizer.encode_beginning(&text, Specials::Added, encoder.most())?;
            let is_learnt = |span: &std::ops::Range<usize>| span.end > prompt.len();
            Ok(learn(tokens, is_learnt, encoder.tokenizer()?.eos()))
        }
        Task::Seq2SeqLm => {
            let mut tokens = tokenizer.encode_beginning(prompt, Specials::Added, encoder.most())?;
            tokens.keep_to(encoder.reading.max_length);
            let mut labels = tokenizer.encode_beginning(completion, Specials::Added, encoder.most())?;
            labels.ids.extend(encoder.end(&labels.ids)?);
            Ok(Example { input_ids: tokens.ids, labels: Labels::Tokens(labels.ids), ..Example::default() })
        }
        _ => Err(encoder.refuse("prompt + completion")),
    }
}

/// Columns beside `messages` that a chat template may read.
const VARIABLES: [&str; 2] = ["tools", "documents"];

/// `{"messages": [{"role", "content"}]}`: what the assistant says is to be learnt.
fn from_messages(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if encoder.task() != Task::CausalLm {
        return Err(encoder.refuse("messages"));
    }
    let tokenizer = encoder.tokenizer()?;
    let messages = Message::list(&json(&fields["messages"]))?;
    let template = tokenizer.chat().ok_or_else(|| {
        Error::invalid("the tokenizer has no chat template").with_hint(
            "messages need tokenizer_config.json with a chat_template, or chat_template.jinja, beside tokenizer.json; without one, write the text into prompt and completion",
        )
    })?;
    let variables = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), json(fields.get(*name)?).into_owned()))).collect();
    let rendered = template.render_marked(Conversation { messages, variables })?;
    // The template writes the special tokens itself.
    let tokens = tokenizer.encode_beginning(&rendered.text, Specials::AsWritten, encoder.most())?;
    let is_spoken = |span: &std::ops::Range<usize>| rendered.spoken.iter().any(|spoken| span.start < spoken.end && spoken.start < span.end);
    Ok(learn(tokens, is_spoken, None))
}

/// Tokens as an example of which some are labels, with a token for the end.
fn learn(tokens: Tokens, is_learnt: impl Fn(&std::ops::Range<usize>) -> bool, end: Option<i32>) -> Example {
    let Tokens { mut ids, spans, .. } = tokens;
    let mut labels: Vec<i32> = ids.iter().zip(&spans).map(|(id, span)| if is_learnt(span) { *id } else { IGNORED }).collect();
    match end {
        // The tokenizer has written it already.
        Some(end) if ids.last() == Some(&end) => {
            if let Some(last) = labels.last_mut() {
                *last = end;
            }
        }
        Some(end) => {
            ids.push(end);
            labels.push(end);
        }
        None => {}
    }
    Example { input_ids: ids, labels: Labels::Tokens(labels), ..Example::default() }
}

impl Tokens {
    /// Cuts the text so that with the tokens that were added behind it no more than `length` are left.
    pub(super) fn keep_to(&mut self, length: Option<usize>) {
        let Some(length) = length.filter(|length| *length < self.ids.len()) else { return };
        let behind = self.spans.iter().rev().take_while(|span| span.is_empty()).count().min(length);
        let cut = length - behind..self.ids.len() - behind;
        self.ids.drain(cut.clone());
        self.segments.drain(cut.clone());
        if self.texts.len() >= cut.end {
            self.texts.drain(cut.clone());
        }
        self.spans.drain(cut);
        self.ids.shrink_to_fit();
        self.segments.shrink_to_fit();
    }
}

/// What a value is, or, of a table's cell, what its text says.
pub(super) fn json(value: &Value) -> Cow<'_, Value> {
    let told = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    told.map_or(Cow::Borrowed(value), Cow::Owned)
}

pub(super) fn string<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    fields[column].as_str().ok_or_else(|| Error::mismatch(column, "text", describe(&fields[column])))
}

/// A column of whole numbers; empty if it is absent.
fn numbers(fields: &Fields, column: &'static str) -> Result<Vec<i32>> {
    let wrong = |found: &Value| Error::mismatch(column, "a list of whole numbers", describe(found));
    match fields.get(column) {
        None | Some(Value::Null) => Ok(vec![]),
        Some(Value::Array(values)) => values.iter().map(|value| whole(column, value)).collect(),
        Some(Value::String(cell)) if cell.trim().is_empty() => Ok(vec![]),
        // A cell of a table.
        Some(text @ Value::String(cell)) => match serde_json::from_str(cell) {
            Ok(Value::Array(values)) => values.iter().map(|value| whole(column, value)).collect(),
            _ => Err(wrong(text)),
        },
        Some(other) => Err(wrong(other)),
    }
}

fn whole(column: &'static str, value: &Value) -> Result<i32> {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Error::mismatch(column, "a whole number", describe(value)))
}

/// A list of lists of numbers, of any depth, as numbers with the length of every axis.
fn flatten(value: &Value, depth: usize, into: &mut Numbers, name: &str) -> Result<()> {
    let uneven = || Error::invalid(format!("{name}: rows of different depth"));
    let Value::Array(items) = value else {
        let number = value.as_f64().or_else(|| value.as_bool().map(|flag| f64::from(u8::from(flag)))).filter(|number| number.is_finite());
        into.values.push(number.ok_or_else(|| Error::mismatch(name.to_owned(), "numbers", describe(value)))?);
        return if depth == into.shape.len() { Ok(()) } else { Err(uneven()) };
    };
    if depth == into.shape.len() && into.values.is_empty() {
        into.shape.push(items.len());
    }
    match into.shape.get(depth) {
        Some(length) if *length == items.len() => items.iter().try_for_each(|item| flatten(item, depth + 1, into, name)),
        Some(length) => Err(Error::mismatch(format!("{name}: length of axis {depth}"), length, items.len())),
        None => Err(uneven()),
    }
}

/// Whether a value is text for people, not a number or a list in a table's cell.
fn is_text(value: &Value) -> bool {
    value.is_string() && json(value).is_string()
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "images are single precision: the nearest such number is meant"
)]
fn single(number: f64) -> f32 {
    number as f32
}

/// A value for a message: short, and with its kind.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    }
}
