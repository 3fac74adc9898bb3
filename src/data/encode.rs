//! Rows of data files → numbers: one function for each form that a row can have.

use std::ops::Range;

use serde_json::Value;

use super::chat::{Conversation, Ending, Message};
use super::encoder::{Encoder, pixels, variables};
use super::example::{Example, IGNORED, Labels};
use super::fields::{Fields, check_bytes, empty_text, json, numbers, string};
use super::roles::no_form;
use super::template::from_template;
use super::tokenizer::Specials;
use super::tokens::Tokens;
use super::{rows, weights};
use crate::adapter::config::Task;
use crate::error::{Error, Result};

/// A form that rows can have: the columns by which it is known, and how it is read.
struct RowForm {
    columns: &'static [&'static str],
    read: fn(&Fields, &Encoder<'_>) -> Result<Example>,
}

/// Every form, the most explicit first.
const FORMS: [RowForm; 5] = [
    RowForm { columns: &["input_ids"], read: from_tokens },
    RowForm { columns: &["pixel_values"], read: from_pixels },
    RowForm { columns: &["messages"], read: from_messages },
    RowForm { columns: &["prompt", "completion"], read: from_prompt },
    RowForm { columns: &["text"], read: from_text },
];

/// One row as numbers: an example, or one for each window of its text.
///
/// # Errors
/// As [`encode`].
pub(super) fn encode_all(encoder: &Encoder<'_>, fields: &Fields) -> Result<Vec<Example>> {
    check_bytes(fields)?;
    let found = rows::windows(encoder.task(), fields, encoder).unwrap_or_else(|| Ok(vec![encode(encoder, fields)?]))?;
    if !encoder.reading.weighs_rows() {
        return Ok(found);
    }
    found.into_iter().map(|example| weights::weighed(example, fields)).collect()
}

/// One row as numbers.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Mismatch`](crate::ErrorKind::Mismatch) for a row of no known form, or with values of the wrong
/// type, or one that does not go with the task.
fn encode(encoder: &Encoder<'_>, fields: &Fields) -> Result<Example> {
    if let Some(prompt) = encoder.reading.hard_prompt.filter(|_| !fields.contains_key("input_ids")) {
        let class = encoder.class(fields)?;
        return from_template(prompt, fields, class, encoder.tokenizer()?, encoder.task(), encoder.reading.max_length);
    }
    let form = FORMS.iter().find(|form| form.columns.iter().all(|column| fields.contains_key(*column)));
    let columns = encoder.columns(fields)?;
    let own = rows::reader(encoder.task(), fields);
    let example = match form {
        _ if own.is_some() => own.map_or_else(|| Ok(Example::default()), |read| read(fields, encoder))?,
        Some(form) => (form.read)(fields, encoder)?,
        None if columns.is_empty() => return Err(no_form(fields, encoder.task())),
        None => Example { labels: encoder.labels(fields, &[])?, ..Example::default() },
    };
    let example = rows::with_picture(example, fields, encoder)?;
    // What a task's reader made of a column is not undone.
    let columns = columns.into_iter().chain(example.columns).collect();
    let example = Example { columns, ..example };
    rows::check_taught(&example, encoder)?;
    Ok(example)
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
    let labels = if encoder.task().labels_texts() { encoder.labels(fields, &[])? } else { Labels::Class(encoder.class(fields)?) };
    Ok(Example { labels, ..pixels(fields)? })
}

/// `{"text", "text_pair"?, "label"?}`: a document to learn, or a text to classify.
fn from_text(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let (tokenizer, text) = (encoder.tokenizer()?, string(fields, "text")?);
    let task = encoder.task();
    if task == Task::SeqCls && text.trim().is_empty() {
        return Err(empty_text("text"));
    }
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
    Ok(Example { labels, ..tokens.into() })
}

/// `{"prompt", "completion"}`: the completion is to be learnt, and where it ends.
fn from_prompt(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if let Some(turns) = turns_of(fields, encoder)? {
        return from_turns(fields, turns, encoder);
    }
    let (prompt, completion) = (string(fields, "prompt")?, string(fields, "completion")?);
    let tokenizer = encoder.tokenizer()?;
    match encoder.task() {
        Task::CausalLm => {
            // Encoded together, as it will be read; the token at the seam belongs to the completion if it reaches into it.
            let text = format!("{prompt}{completion}");
            let tokens = tokenizer.encode_beginning(&text, Specials::Added, encoder.most())?;
            let is_learnt = |span: &Range<usize>| span.end > prompt.len();
            Ok(learn(tokens, is_learnt, encoder.tokenizer()?.eos()))
        }
        Task::Seq2SeqLm => {
            let mut tokens = tokenizer.encode_beginning(prompt, Specials::Added, encoder.most())?;
            tokens.keep_to(encoder.reading.max_length);
            let labels = Labels::Tokens(encoder.written(completion)?);
            Ok(Example { input_ids: tokens.ids, labels, is_cut: tokens.are_cut, ..Example::default() })
        }
        _ => Err(encoder.refuse("prompt + completion")),
    }
}

/// The turns of a prompt and of its completion, where both are lists of messages.
fn turns_of(fields: &Fields, encoder: &Encoder<'_>) -> Result<Option<[Vec<Message>; 2]>> {
    let [prompt, completion] = ["prompt", "completion"].map(|name| json(&fields[name]));
    match (prompt.is_array(), completion.is_array()) {
        (true, true) => {
            let mut messages = rows::messages_of(&joined(&prompt, &completion), encoder)?;
            let answer = messages.split_off(prompt.as_array().map_or(0, Vec::len));
            Ok(Some([messages, answer]))
        }
        (false, false) => Ok(None),
        _ => Err(Error::mismatch("prompt and completion", "two texts, or two lists of messages", "one of each")),
    }
}

/// `{"prompt": [messages], "completion": [messages]}`: what the completion adds to the prompt is to be learnt (TRL's conversational form).
fn from_turns(fields: &Fields, [prompt, completion]: [Vec<Message>; 2], encoder: &Encoder<'_>) -> Result<Example> {
    if encoder.task() != Task::CausalLm {
        return Err(encoder.refuse("messages"));
    }
    let (template, variables) = (encoder.template()?, variables(fields));
    let render = |messages: Vec<Message>, ending| template.render_for(Conversation { messages, variables: variables.clone() }, ending);
    let whole = render(prompt.iter().chain(&completion).cloned().collect(), Ending::Complete)?;
    let asked = render(prompt, Ending::AssistantsTurn)?;
    if !whole.starts_with(&asked) {
        let error = Error::invalid("the chat template writes the prompt otherwise once it has an answer");
        return Err(error.with_hint("write the whole conversation as messages: what the assistant says there is learnt"));
    }
    let tokens = encoder.tokenizer()?.encode_beginning(&whole, Specials::AsWritten, encoder.most())?;
    Ok(learn(tokens, |span| span.end > asked.len(), None))
}

/// Two lists as one.
fn joined(one: &Value, other: &Value) -> Value {
    [one, other].into_iter().filter_map(Value::as_array).flatten().cloned().collect()
}

/// `{"messages": [{"role", "content"}]}`: what the assistant says is to be learnt.
fn from_messages(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if encoder.task() != Task::CausalLm {
        return Err(encoder.refuse("messages"));
    }
    let tokenizer = encoder.tokenizer()?;
    let messages = rows::messages_of(&json(&fields["messages"]), encoder)?;
    let rendered = encoder.template()?.render_marked(Conversation { messages, variables: variables(fields) })?;
    // The template writes the special tokens itself.
    let tokens = tokenizer.encode_beginning(&rendered.text, Specials::AsWritten, encoder.most())?;
    let spoken = |span: &Range<usize>| rendered.spoken.iter().find(|spoken| span.start < spoken.range.end && spoken.range.start < span.end);
    let weights: Vec<f64> = tokens.spans.iter().map(|span| spoken(span).map_or(1.0, |spoken| spoken.weight)).collect();
    let weighs_alike = weights.iter().all(|weight| weight.to_bits() == 1.0_f64.to_bits());
    if !weighs_alike && !encoder.reading.takes_weights {
        let error = Error::unsupported("messages that weigh differently", "all that is learnt weighs the same here");
        return Err(error.with_hint("give an assistant's message a weight of 1, or of 0, which is shown and not learnt"));
    }
    let example = learn(tokens, |span| spoken(span).is_some(), None);
    Ok(if weighs_alike { example } else { Example { label_weights: weights, ..example } })
}

/// Tokens as an example of which some are labels, with a token for the end.
fn learn(tokens: Tokens, is_learnt: impl Fn(&Range<usize>) -> bool, end: Option<i32>) -> Example {
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
