//! Answers of which one is better, as TRL's trainers read them.

use std::borrow::Cow;

use serde_json::Value;

use crate::adapter::config::Task;
use crate::data::Specials;
use crate::data::chat::{Ending, Message};
use crate::data::encoder::Encoder;
use crate::data::example::{Example, IGNORED, Labels, Numbers};
use crate::data::fields::{Fields, describe, empty_text, json};
use crate::error::{Error, Result};
use crate::train::losses::{COMPLETION, LABELS};

/// `{"prompt", "chosen", "rejected"}`, or for one answer a row `{"prompt", "completion", "label"}`.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let parted = parted(fields);
    let fields = parted.as_ref().unwrap_or(fields);
    let prompt = fields.get("prompt").ok_or_else(no_prompt)?;
    if encoder.reading.loss.judges_single_answers() {
        let missing = |name: &'static str| {
            Error::not_found("column", name).with_hint("a row has prompt, completion and label; `map COLUMN=ROLE` says which is which")
        };
        let completion = fields.get("completion").ok_or_else(|| missing("completion"))?;
        let mut example = answer(prompt, completion, "completion", encoder)?;
        let label = fields.get("label").ok_or_else(|| missing("label"))?;
        let is_good = match &*json(label) {
            Value::Bool(is_good) => *is_good,
            other if other.as_f64() == Some(1.0) => true,
            other if other.as_f64() == Some(0.0) => false,
            other => {
                let error = Error::mismatch("label", "true for a good answer or false for a bad one", describe(other));
                return Err(error.with_hint("write true or false, or 1 or 0"));
            }
        };
        example.columns.insert(LABELS_OF_ANSWERS.to_owned(), Numbers { shape: vec![], values: vec![f64::from(u8::from(is_good))] });
        return Ok(example);
    }
    if is_text(prompt) && fields.get("chosen").is_some_and(|chosen| !is_text(chosen)) {
        let error = Error::mismatch("prompt", "a list of messages, as chosen is", "a text that both conversations do not begin with");
        return Err(
            error.with_hint("write [{\"role\": \"user\", \"content\": \"..\"}] as the prompt, or begin chosen and rejected with it")
        );
    }
    let side = |name: &'static str| {
        fields.get(name).ok_or_else(|| {
            Error::not_found("column", name).with_hint("a row has prompt, chosen and rejected; `map COLUMN=ROLE` says which is which")
        })
    };
    let (chosen, rejected) = (side("chosen")?, side("rejected")?);
    if chosen == rejected {
        return Err(Error::invalid("chosen and rejected are the same: nothing can be learnt from this row").with_hint("leave the row out"));
    }
    let mut example = answer(prompt, chosen, "chosen", encoder)?;
    example.others = vec![answer(prompt, rejected, "rejected", encoder)?];
    if encoder.reading.task == Task::Reward {
        let bare = |example: Example| Example { input_ids: example.input_ids, ..Example::default() };
        let others = example.others.drain(..).map(bare).collect();
        return Ok(Example { labels: Labels::Row, others, ..bare(example) });
    }
    Ok(example)
}

fn no_prompt() -> Error {
    Error::not_found("column", "prompt")
        .with_hint("a row has prompt, chosen and rejected; conversations that begin alike may do without prompt")
}

/// The row of two conversations without a prompt, or with a text beside them: what they begin with alike is the prompt (TRL's `maybe_extract_prompt`).
fn parted(fields: &Fields) -> Option<Fields> {
    let turns = |name: &str| messages_or_text(fields.get(name)?).as_array().cloned();
    if fields.contains_key("prompt") && turns("prompt").is_some() {
        return None;
    }
    let (chosen, rejected) = (turns("chosen")?, turns("rejected")?);
    let alike = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
    // Where one goes on when the other has ended, its last turn is its answer.
    let alike = alike.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
    if alike == 0 {
        return None;
    }
    let mut parted = fields.clone();
    parted.insert("prompt".to_owned(), chosen[..alike].to_vec().into());
    parted.insert("chosen".to_owned(), chosen[alike..].to_vec().into());
    parted.insert("rejected".to_owned(), rejected[alike..].to_vec().into());
    Some(parted)
}

/// The answers of a row, each with its column: `chosen` and `rejected`, or `completion`.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<(String, Example)>> {
    let parted = parted(fields);
    let fields = parted.as_ref().unwrap_or(fields);
    let prompt = fields.get("prompt").ok_or_else(no_prompt)?;
    let given = ["chosen", "rejected", "completion"].into_iter().filter_map(|name| Some((name, fields.get(name)?)));
    given
        .map(|(name, given)| {
            let example = answer(prompt, given, name, encoder)?;
            // A score reads the text alone.
            let is_scored = encoder.reading.task == Task::Reward;
            let bare = if is_scored { Example { input_ids: example.input_ids, ..Example::default() } } else { example };
            Ok((name.to_owned(), bare))
        })
        .collect()
}

/// The input of desirable and undesirable answers.
const LABELS_OF_ANSWERS: &str = crate::train::losses::DESIRABLE;

/// A prompt and an answer as one text with its end: prompt and answer are encoded together, the answer begins where the prompt's own tokens end.
fn answer(prompt: &Value, completion: &Value, column: &str, encoder: &Encoder<'_>) -> Result<Example> {
    if says_nothing(completion) {
        return Err(empty_text(column));
    }
    let (prompt, whole) = (text_of(&[prompt], encoder, true)?, text_of(&[prompt, completion], encoder, false)?);
    let tokenizer = encoder.tokenizer()?;
    let specials = if whole.is_chat { Specials::AsWritten } else { Specials::Added };
    let before = tokenizer.encode_beginning(&prompt.text, specials, encoder.most())?.without_end(tokenizer.eos()).len();
    let mut ids = tokenizer.encode_beginning(&whole.text, specials, encoder.most())?.ids;
    if let Some(end) = tokenizer.eos().filter(|end| !whole.is_chat && ids.last() != Some(end)) {
        ids.push(end);
    }
    let whole_length = ids.len();
    ids.truncate(encoder.reading.max_length.unwrap_or(whole_length));
    let is_cut = ids.len() < whole_length;
    if before >= ids.len() {
        return Err(Error::invalid("this row has no token of an answer").with_hint("the answer is empty, or `max_length` has cut it off"));
    }
    let learnt: Vec<f64> = (0..ids.len()).map(|at| f64::from(u8::from(at >= before))).collect();
    let keeps_prompt = encoder.reading.loss.learns_prompts();
    let labels = ids.iter().enumerate().map(|(at, id)| if at >= before || keeps_prompt { *id } else { IGNORED }).collect();
    let mut example = Example { input_ids: ids, labels: Labels::Tokens(labels), is_cut, ..Example::default() };
    example.columns.insert(COMPLETION.to_owned(), Numbers { shape: vec![learnt.len()], values: learnt });
    debug_assert_ne!(COMPLETION, LABELS);
    Ok(example)
}

/// Whether a text, or what the last of some messages says, is empty.
fn says_nothing(part: &Value) -> bool {
    let part = messages_or_text(part);
    let said = part.as_array().map_or(Some(&*part), |messages| messages.last().map(|last| &last["content"]));
    said.is_none_or(|said| said.as_str().is_some_and(|text| text.trim().is_empty()))
}

/// A list of messages, perhaps a table's cell. Any other text stays one, though it may read like a number.
fn messages_or_text(part: &Value) -> Cow<'_, Value> {
    let is_list = |told: &Value| told.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object));
    match json(part) {
        Cow::Owned(told) if !is_list(&told) => Cow::Borrowed(part),
        told => told,
    }
}

fn is_text(part: &Value) -> bool {
    messages_or_text(part).is_string()
}

struct Text {
    text: String,
    is_chat: bool,
}

/// Texts one after the other, or lists of messages through the chat template.
fn text_of(parts: &[&Value], encoder: &Encoder<'_>, asks: bool) -> Result<Text> {
    let parts: Vec<_> = parts.iter().map(|part| messages_or_text(part)).collect();
    if parts.iter().all(|part| part.is_string()) {
        return Ok(Text { text: parts.iter().filter_map(|part| part.as_str()).collect(), is_chat: false });
    }
    let mut messages = vec![];
    for part in &parts {
        messages.extend(Message::list(part)?);
    }
    let template = encoder.tokenizer()?.chat().ok_or_else(|| {
        Error::invalid("the tokenizer has no chat template")
            .with_hint("write prompt, chosen and rejected as texts, or name a tokenizer with a template")
    })?;
    let ending = if asks { Ending::AssistantsTurn } else { Ending::Complete };
    Ok(Text { text: template.render(&messages, ending)?, is_chat: true })
}
