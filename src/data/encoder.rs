//! What the rows of a file are read with: the tokenizer, the classes, and what the model takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::chat::ChatTemplate;
use super::classes::{placeholder, tag_of, unknown};
use super::example::{Example, Labels, Numbers, Pixels, UNLABELLED};
use super::fields::{Fields, empty_text, flatten, is_text, json, numbers, string, whole};
use super::forms;
use super::media_file::Processors;
use super::reading::{Packing, Reading};
use super::roles::{is_input, no_form, no_label};
use super::tokenizer::{Specials, Tokenizer};
use super::tokens::Tokens;
use crate::adapter::config::Task;
use crate::error::{Error, Result};
use crate::num::single;

/// What rows are read with.
pub(super) struct Encoder<'a> {
    pub reading: &'a Reading<'a>,
    /// The numbers of class names, if labels are names.
    classes: Option<BTreeMap<String, i32>>,
    /// The data file's folder.
    folder: PathBuf,
    /// What pictures and sounds are read with.
    pub processors: Processors,
    /// Characters that the tokenizer has no symbol for, each with how often it was met.
    unheard: Mutex<BTreeMap<String, usize>>,
}

/// Columns beside `messages` that a chat template may read.
const VARIABLES: [&str; 2] = ["tools", "documents"];

/// What of a row a chat template is shown beside the messages.
pub(super) fn variables(fields: &Fields) -> Fields {
    VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), json(fields.get(*name)?).into_owned()))).collect()
}

/// `{"pixel_values": [[[..]]]}`, without its label.
pub(super) fn pixels(fields: &Fields) -> Result<Example> {
    let mut numbers = Numbers::default();
    flatten(&json(&fields["pixel_values"]), 0, &mut numbers, "pixel_values")?;
    let pixels = Pixels { shape: numbers.shape, values: numbers.values.into_iter().map(single).collect() };
    Ok(Example { pixel_values: Some(pixels), ..Example::default() })
}

impl<'a> Encoder<'a> {
    /// For the rows of a file, whose labels may have names.
    pub(super) fn new(reading: &'a Reading<'a>, class_names: Option<&[String]>, file: &Path) -> Self {
        let classes = match reading.hard_prompt {
            Some(prompt) => Some(prompt.numbers().collect()),
            None => class_names.map(|names| names.iter().cloned().zip(0..).collect()),
        };
        let folder = if file.is_dir() { Some(file) } else { file.parent() };
        Self {
            reading,
            classes,
            folder: folder.map(Path::to_path_buf).unwrap_or_default(),
            processors: Processors::default(),
            unheard: Mutex::default(),
        }
    }

    /// The tokenizer's chat template.
    ///
    /// # Errors
    /// If it has none.
    pub(super) fn template(&self) -> Result<&'a ChatTemplate> {
        self.tokenizer()?.chat().ok_or_else(|| {
            Error::invalid("the tokenizer has no chat template").with_hint(
                "messages need tokenizer_config.json with a chat_template, or chat_template.jinja, beside tokenizer.json; without one, write the text into prompt and completion",
            )
        })
    }

    /// Columns that go to the model's own inputs of their names as they are.
    pub(super) fn columns(&self, fields: &Fields) -> Result<BTreeMap<String, Numbers>> {
        let own = fields.iter().filter(|(name, value)| !value.is_null() && is_input(name, self.reading));
        let read = own.filter(|(_, value)| !is_text(value)).map(|(name, value)| {
            let mut numbers = Numbers::default();
            flatten(&json(value), 0, &mut numbers, name)?;
            Ok((name.clone(), numbers))
        });
        read.collect()
    }

    /// What is to be learnt of a row of numbers.
    pub(super) fn labels(&self, fields: &Fields, input_ids: &[i32]) -> Result<Labels> {
        match self.task() {
            task if task.is_one_class() => Ok(Labels::Class(self.class(fields)?)),
            Task::CausalLm if !fields.contains_key("labels") => Ok(Labels::Tokens(input_ids.to_vec())),
            Task::MaskedLm if !fields.contains_key("labels") => Ok(Labels::Hidden),
            _ if !fields.contains_key("labels") => Err(Error::not_found("column", "labels")
                .with_hint("each row needs a label for each of its tokens, in a column labels; -100 where nothing is learnt")),
            task => {
                let labels = numbers(fields, "labels")?;
                // No labels at all are no default here: as any other number of them, they are not one for each token.
                if labels.is_empty() && !input_ids.is_empty() && !task.labels_texts() && json(&fields["labels"]).is_array() {
                    let error = Error::mismatch("length of labels", format!("{}, one for each token", input_ids.len()), 0);
                    return Err(error.with_hint(
                        "-100 stands where nothing is learnt; leave the row out, or its labels' column where the task needs none",
                    ));
                }
                Ok(Labels::Tokens(labels))
            }
        }
    }

    pub(super) fn task(&self) -> Task {
        self.reading.task
    }

    pub(super) fn tokenizer(&self) -> Result<&'a Tokenizer> {
        let missing = || Error::invalid("a row of text needs a tokenizer").with_hint("name one with `tokenizer FILE`");
        let tokenizer = self.reading.tokenizer.ok_or_else(missing)?;
        tokenizer.check_fits(self.reading.limits.vocabulary)?;
        Ok(tokenizer)
    }

    /// Tokens of a row that can be kept at most; more are cut or an error. None: all are.
    pub(super) fn most(&self) -> Option<usize> {
        if self.reading.packing == Packing::Concatenate { None } else { self.reading.max_length.or(self.reading.limits.positions) }
    }

    /// Notes the characters of a text that have no symbol of their own, of models that hear symbols.
    pub(super) fn note_unheard(&self, text: &str, tokens: &Tokens, unknown: Option<i32>) {
        let mut unheard = self.unheard();
        for (_, span) in tokens.ids.iter().zip(&tokens.spans).filter(|(id, _)| Some(**id) == unknown) {
            let written = text.get(span.clone()).filter(|written| !written.is_empty()).unwrap_or("?");
            *unheard.entry(written.to_owned()).or_default() += 1;
        }
    }

    fn unheard(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once which characters have no symbol.
    pub(super) fn tell(&self, path: &Path) {
        const SHOWN: usize = 12;
        let unheard = self.unheard();
        if unheard.is_empty() {
            return;
        }
        let shown: Vec<String> = unheard.iter().take(SHOWN).map(|(written, count)| format!("{written:?} ({count} times)")).collect();
        let more = if unheard.len() > SHOWN { format!(" and {} others", unheard.len() - SHOWN) } else { String::new() };
        tracing::warn!(
            "{}: the tokenizer has no symbol for {}{more}: they are learnt as the unknown one; write texts in its letters (is it a matter of capitals?), or leave these out",
            path.display(),
            shown.join(", ")
        );
    }

    /// The class of a row, whose label is settled: a number, or a name.
    pub(super) fn class(&self, fields: &Fields) -> Result<i32> {
        let value = match fields.get("label").filter(|value| !value.is_null()) {
            None if self.reading.loss.needs_no_labels() => return Ok(UNLABELLED),
            value => value.or(fields.get("label")).ok_or_else(|| no_label(fields))?,
        };
        let Value::String(name) = value else {
            let class = whole("label", value)?;
            // The number that stands for no label is none that a file may say.
            return if class == UNLABELLED { Err(Error::mismatch("label", "0 or more", class)) } else { Ok(class) };
        };
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
        usize::try_from(number).map_err(|_| Error::mismatch("a label", "0 or more", number).with_hint("labels are numbered from 0 on"))
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
            _ if self.classes.is_none() && placeholder(name).is_some() => Ok(placeholder(name).unwrap_or_default()),
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
        // A label that is a tag itself is that of the entity's first word.
        let inside = tag_of(label).filter(|_| !begins && is_known(label)).map(|kind| format!("I-{kind}"));
        let names = [Some(marked.as_str()), inside.as_deref(), Some(label)];
        let name = names.into_iter().flatten().find(|name| is_known(name)).unwrap_or(&marked).to_owned();
        self.class_of(&name.into())
    }

    /// A text of its own, with its special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(super) fn plain_text(&self, text: &str) -> Result<Example> {
        let mut tokens = self.tokenizer()?.encode_beginning(text, Specials::Added, self.most())?;
        tokens.keep_to(self.reading.max_length);
        Ok(tokens.into())
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
            return Err(empty_text("text"));
        }
        if fields.get("text_pair").is_none_or(Value::is_null) {
            return self.plain_text(text);
        }
        let second = string(fields, "text_pair")?;
        if second.trim().is_empty() {
            return Err(empty_text("text_pair"));
        }
        let tokens = self.tokenizer()?.encode_pair(text, second, self.reading.max_length)?;
        Ok(tokens.into())
    }

    /// A file that a row names, beside the data file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The label that says where a text ends, so that the model learns to end there.
    pub(super) fn end(&self, ids: &[i32]) -> Result<Option<i32>> {
        Ok(self.tokenizer()?.eos().filter(|eos| ids.last() != Some(eos)))
    }

    /// What a decoder should write: the tokens of a text, and the one that ends it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(super) fn written(&self, text: &str) -> Result<Vec<i32>> {
        let mut ids = self.tokenizer()?.encode_beginning(text, Specials::Added, self.most())?.ids;
        ids.extend(self.end(&ids)?);
        // The decoder is given the token that starts it; it does not write it (transformers' `run_speech_recognition_seq2seq.py`).
        let is_start = self.reading.decoder_start.is_some() && ids.first().copied() == self.reading.decoder_start;
        if is_start && self.task() == Task::SpeechSeq2Seq {
            ids.remove(0);
        }
        Ok(ids)
    }

    pub(super) fn refuse(&self, form: &str) -> Error {
        Error::unsupported(format!("{form} for {}", self.task().name()), format!("its rows have {}", forms(self.task())))
            .with_hint("`map COLUMN=ROLE` says what a column is for; `peft-onnx inject --task` names another task")
    }
}
