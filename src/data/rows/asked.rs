//! Rows that are to be answered: what a model reads of them, without labels.

use std::ops::Range;

use serde_json::Value;

use super::{answers, files, pictures, preferences, texts, words};
use crate::adapter::config::Task;
use crate::data::chat::{Conversation, Ending};
use crate::data::encoder::{Encoder, pixels, variables};
use crate::data::example::{Example, IGNORED, Labels};
use crate::data::fields::{Fields, check_bytes, json, string};
use crate::data::fit::shortened;
use crate::data::reading::Reading;
use crate::data::roles::no_form;
use crate::data::template::from_template;
use crate::data::tokenizer::Specials;
use crate::error::{Error, Result};

/// A row without its label, as what the model runs on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// What the model runs on: one input, or several, such as the texts of a row or the windows of a text, each with its column's name.
    pub parts: Vec<(String, Example)>,
    /// What of the row the answer is shown in.
    pub shown: Shown,
}

/// What of a row an answer is shown in.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Shown {
    /// Nothing: the answer stands alone.
    #[default]
    Nothing,
    /// Words, in a text of whose bytes they are, or by themselves.
    Words {
        /// The text, if there is one.
        text: Option<String>,
        /// Each word, and its bytes in the text.
        words: Vec<(String, Option<Range<usize>>)>,
    },
}

/// What of a row a model reads for a task.
///
/// # Errors
/// A row without what the task reads.
pub(in crate::data) fn question(fields: &Fields, encoder: &Encoder<'_>) -> Result<Question> {
    check_bytes(fields)?;
    let has = |name: &str| fields.contains_key(name);
    let task = encoder.reading.task;
    if let Some(prompt) = encoder.reading.hard_prompt.filter(|_| !has("input_ids")) {
        let example = from_template(prompt, fields, 0, encoder.tokenizer()?, task, encoder.reading.max_length)?;
        return Ok(Question::of("text", example));
    }
    match task {
        Task::TokenCls if !has("input_ids") => {
            let (example, words) = words::asked(fields, encoder)?;
            let text = fields.get("text").and_then(Value::as_str).filter(|_| !has("tokens")).map(ToOwned::to_owned);
            Ok(Question { shown: Shown::Words { text, words }, ..Question::of("text", example) })
        }
        Task::Qa => {
            let windows = answers::asked(fields, encoder)?;
            Ok(Question { parts: windows.into_iter().map(|window| ("context".to_owned(), window)).collect(), ..Question::default() })
        }
        Task::Embedding => Ok(Question { parts: texts::asked(fields, encoder)?, ..Question::default() }),
        Task::Preference | Task::Reward if has("chosen") || has("completion") => {
            Ok(Question { parts: preferences::asked(fields, encoder)?, ..Question::default() })
        }
        Task::Preference => {
            let error = Error::mismatch("columns", "prompt + chosen + rejected, or prompt + completion", "no answer");
            Err(error.with_hint("predict tells how probable answers are; `peft-onnx generate` writes one"))
        }
        // What is learnt from files is answered for files.
        Task::Seq2SeqLm | Task::SpeechSeq2Seq | Task::AudioCls | Task::Ctc if has("audio") => {
            files::recording(fields, encoder).map(|example| Question::of("audio", example))
        }
        Task::Seq2SeqLm | Task::SpeechSeq2Seq | Task::ImageCls | Task::MultiLabel | Task::Regression if has("image") => {
            files::picture(fields, encoder).map(|example| Question::of("image", example))
        }
        Task::CausalLm | Task::Seq2SeqLm => {
            let example = prompt(fields, encoder).and_then(|example| pictures::shown(example, fields, encoder))?;
            Ok(Question::of("prompt", example))
        }
        Task::Rerank if !has("text_pair") => {
            let error = Error::not_found("column", "passage");
            Err(error.with_hint("a row has query and passage; `map COLUMN=passage` says which is which"))
        }
        _ => of_numbers_or_text(fields, encoder).map(|example| Question::of("text", example)),
    }
}

impl Question {
    /// The question as the model can take it: cut if it was asked for.
    pub(in crate::data) fn fitted(mut self, line: usize, reading: &Reading<'_>) -> Result<Self> {
        for (name, example) in &mut self.parts {
            example.line = line;
            // What the answer is read at is kept; nothing else has a label.
            let has_places = matches!(&example.labels, Labels::Tokens(labels) if !labels.is_empty());
            let unlabelled = match reading.task {
                Task::MaskedLm => Labels::Tokens(vec![IGNORED; example.input_ids.len()]),
                _ => Labels::Class(IGNORED),
            };
            let places = std::mem::replace(&mut example.labels, Labels::Row);
            example.check(&reading.limits, None, true)?;
            example.labels = if has_places { places } else { unlabelled };
            let has_file = example.pixel_values.is_some() || example.media.is_some();
            let is_empty = example.input_ids.is_empty() && !has_file && example.columns.is_empty();
            if is_empty {
                return Err(Error::mismatch(name.clone(), "a text", "an empty one"));
            }
            shortened(example, reading)?;
        }
        Ok(self)
    }

    fn of(name: &str, example: Example) -> Self {
        Self { parts: vec![(name.to_owned(), example)], shown: Shown::Nothing }
    }
}

/// A text, or columns with the names of the model's own inputs.
fn of_numbers_or_text(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let columns = encoder.columns(fields)?;
    let mut example = if fields.contains_key("pixel_values") {
        pixels(fields)?
    } else if columns.is_empty() || fields.contains_key("text") || fields.contains_key("input_ids") {
        encoder.text_or_tokens(fields)?
    } else {
        Example::default()
    };
    example.columns.extend(columns);
    Ok(example)
}

/// The text that a model goes on from: `prompt`, `text`, `messages` without the last answer, or `input_ids`.
fn prompt(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if fields.contains_key("input_ids") {
        return encoder.text_or_tokens(fields);
    }
    let tokenizer = encoder.tokenizer()?;
    if let Some(messages) = ["messages", "prompt"].into_iter().find_map(|name| fields.get(name)).map(json).filter(|value| value.is_array())
    {
        let mut messages = pictures::messages_of(&messages, encoder)?;
        if messages.last().is_some_and(|message| message.role() == "assistant") {
            messages.pop();
        }
        let conversation = Conversation { messages, variables: variables(fields) };
        let text = encoder.template()?.render_for(conversation, Ending::AssistantsTurn)?;
        let input_ids = tokenizer.encode_beginning(&text, Specials::AsWritten, encoder.most())?.ids;
        return Ok(Example { input_ids, ..Example::default() });
    }
    let column =
        ["prompt", "text"].into_iter().find(|name| fields.contains_key(*name)).ok_or_else(|| no_form(fields, encoder.reading.task))?;
    let tokens = tokenizer.encode_beginning(string(fields, column)?, Specials::Added, encoder.most())?;
    let is_whole = encoder.reading.task == Task::Seq2SeqLm;
    // Some tokenizers end every text; this one goes on.
    let input_ids = if is_whole || tokens.ids.len() < 2 { tokens.ids } else { tokens.without_end(tokenizer.eos()) };
    Ok(Example { input_ids, ..Example::default() })
}
