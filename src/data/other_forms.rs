//! Rows as other programs write them, as the rows that are read here: ShareGPT's conversations, Alpaca's instructions.

use serde_json::Value;

use super::fields::{Fields, describe, json as told};
use super::reading::Reading;
use crate::adapter::config::Task;
use crate::error::{Error, Result};

/// Who speaks in a conversation of ShareGPT's form, and the role that chat templates know.
const SPEAKERS: [(&[&str], &str); 4] = [
    (&["human", "user"], "user"),
    (&["gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"], "assistant"),
    (&["system"], "system"),
    (&["tool", "function", "function_response", "observation"], "tool"),
];

/// Whether rows of a task may be written in these forms.
fn is_read(task: Task) -> bool {
    matches!(task, Task::CausalLm | Task::Seq2SeqLm)
}

/// Gives a row the columns that are read, where it is written in another form: `messages` for `conversations`, and for `instruction`, `input` and
/// `output` either `messages`, if the tokenizer has a chat template, or `prompt` and `completion`.
///
/// # Errors
/// A conversation that is none.
pub(super) fn translate(fields: &mut Fields, reading: &Reading<'_>) -> Result<()> {
    if !is_read(reading.task) || reading.hard_prompt.is_some() {
        return Ok(());
    }
    let given = |fields: &Fields, name: &str| fields.get(name).is_some_and(|value| !is_empty(value));
    if given(fields, "conversations") && !given(fields, "messages") {
        let mut messages: Vec<Value> = system(fields).into_iter().collect();
        messages.extend(turns(&told(&fields["conversations"]))?);
        fields.shift_remove("conversations");
        fields.insert("messages".to_owned(), messages.into());
    } else if given(fields, "instruction") && !["messages", "prompt", "text"].iter().any(|name| given(fields, name)) {
        instruct(fields, reading)?;
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What stands before a conversation in a column of its own.
fn system(fields: &mut Fields) -> Option<Value> {
    let text = fields.get("system").filter(|value| value.is_string() && !is_empty(value)).cloned()?;
    fields.shift_remove("system");
    Some(message("system", text))
}

fn message(role: &str, content: Value) -> Value {
    Value::Object(Fields::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content)]))
}

/// `[{"from": "human", "value": ".."}, ..]`; turns with a role stay what they are.
fn turns(conversation: &Value) -> Result<Vec<Value>> {
    let wrong = |found: &Value| Error::mismatch("conversations", "a list of {\"from\": .., \"value\": ..}", describe(found));
    let Value::Array(turns) = conversation else { return Err(wrong(conversation)) };
    turns.iter().map(|turn| turn_of(turn).ok_or_else(|| wrong(turn))?).collect()
}

fn turn_of(turn: &Value) -> Option<Result<Value>> {
    let mut fields = turn.as_object()?.clone();
    if fields.contains_key("role") {
        return Some(Ok(turn.clone()));
    }
    let speaker = fields.shift_remove("from")?;
    let name = speaker.as_str()?.to_lowercase();
    let content = fields.shift_remove("value")?;
    let Some((_, role)) = SPEAKERS.iter().find(|(names, _)| names.contains(&name.as_str())) else {
        let known = SPEAKERS.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ");
        return Some(Err(Error::mismatch("who speaks in conversations (from)", format!("one of {known}"), name)));
    };
    let mut told = Fields::from_iter([("role".to_owned(), (*role).into()), ("content".to_owned(), content)]);
    told.extend(fields);
    Some(Ok(Value::Object(told)))
}

/// `{"instruction", "input"?, "output", "system"?, "history"?}` (Taori et al. 2023).
fn instruct(fields: &mut Fields, reading: &Reading<'_>) -> Result<()> {
    let mut take = |name: &'static str| match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::mismatch(name, "text", describe(&other))),
    };
    let instruction = take("instruction")?.unwrap_or_default();
    let input = take("input")?.filter(|text| !text.trim().is_empty());
    let output = take("output")?;
    if reading.tokenizer.is_some_and(|tokenizer| tokenizer.chat().is_some()) && reading.task == Task::CausalLm {
        let mut messages: Vec<Value> = system(fields).into_iter().collect();
        messages.extend(history(fields)?);
        let asked = input.map_or_else(|| instruction.clone(), |input| format!("{instruction}\n\n{input}"));
        messages.push(message("user", asked.into()));
        messages.extend(output.map(|output| message("assistant", output.into())));
        fields.insert("messages".to_owned(), messages.into());
        return Ok(());
    }
    let prompt = match (reading.task, input) {
        (Task::CausalLm, Some(input)) => format!("### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"),
        (Task::CausalLm, None) => format!("### Instruction:\n{instruction}\n\n### Response:\n"),
        (_, Some(input)) => format!("{instruction}\n\n{input}"),
        (_, None) => instruction,
    };
    fields.insert("prompt".to_owned(), prompt.into());
    if let Some(output) = output {
        fields.insert("completion".to_owned(), output.into());
    }
    Ok(())
}

/// Turns before the instruction: pairs of what was asked and what was answered.
fn history(fields: &mut Fields) -> Result<Vec<Value>> {
    let Some(value) = fields.get("history").filter(|value| !is_empty(value)).map(|value| told(value).into_owned()) else {
        return Ok(vec![]);
    };
    fields.shift_remove("history");
    let wrong = || Error::mismatch("history", "a list of pairs of texts, [[asked, answered], ..]", describe(&value));
    let pairs = value.as_array().ok_or_else(wrong)?;
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([asked, answered]) if asked.is_string() && answered.is_string() => {
            Ok([message("user", asked.clone()), message("assistant", answered.clone())])
        }
        _ => Err(wrong()),
    };
    Ok(pairs.iter().map(pair).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn translated(row: Value) -> Result<Value> {
        let Value::Object(mut fields) = row else { return Ok(Value::Null) };
        translate(&mut fields, &Reading::for_task(Task::CausalLm))?;
        Ok(Value::Object(fields))
    }

    #[test]
    fn conversations_and_instructions_become_the_rows_that_are_read() -> Result<()> {
        for (row, expected) in [
            (
                json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho", "weight": 0}], "system": "Be brief."}),
                json!({"messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho", "weight": 0},
                ]}),
            ),
            (json!({"conversations": "[{\"from\": \"tool\", \"value\": \"3\"}]"}), json!({"messages": [{"role": "tool", "content": "3"}]})),
            (
                json!({"instruction": "Add.", "input": "1 2", "output": "3"}),
                json!({"prompt": "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n", "completion": "3"}),
            ),
            (
                json!({"instruction": "Say hi.", "input": "", "output": "Hi"}),
                json!({"prompt": "### Instruction:\nSay hi.\n\n### Response:\n", "completion": "Hi"}),
            ),
            (json!({"prompt": "a", "instruction": "b"}), json!({"prompt": "a", "instruction": "b"})),
        ] {
            assert_eq!(translated(row.clone())?, expected, "{row}");
        }
        for (row, said) in [
            (json!({"conversations": [{"from": "nobody", "value": "x"}]}), "human"),
            (json!({"conversations": ["x"]}), "from"),
            (json!({"instruction": 3, "output": "x"}), "expected text"),
        ] {
            let error = translated(row.clone()).expect_err("a bad row").to_string();
            assert!(error.contains(said), "{row}: {error}");
        }
        Ok(())
    }
}
