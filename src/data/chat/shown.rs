//! What a template shows of a conversation. What it does not show cannot be learnt, and is not lost in silence.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::Value;

use super::{Conversation, Message};
use crate::error::{Error, Result};

/// What every template shows.
const USUAL: [&str; 2] = ["role", "content"];

/// The part of an assistant's message that is its answer as much as its words are.
const CALLS: &str = "tool_calls";

/// The names that a template has for parts of a conversation.
#[derive(Debug)]
pub(super) struct Shown {
    source: String,
    /// Parts of messages that were told once.
    told: Mutex<BTreeSet<String>>,
}

impl Shown {
    pub(super) fn of(source: &str) -> Self {
        Self { source: source.to_owned(), told: Mutex::default() }
    }

    /// Looks for what the template does not show. Parts of messages are named once.
    ///
    /// # Errors
    /// Variables that it does not read, and calls of tools that it does not write: an answer would be learnt without them.
    pub(super) fn check(&self, conversation: &Conversation, reads: impl Fn(&str) -> bool) -> Result<()> {
        if let Some((name, _)) = conversation.variables.iter().find(|(name, value)| is_there(value) && !reads(name)) {
            let error = Error::unsupported(format!("the column {name} with this tokenizer"), "its chat template does not show it");
            return Err(error.with_hint(format!("`map \"{name}=ignore\"` trains without it; a template that reads {name} shows it")));
        }
        for part in conversation.messages.iter().flat_map(|message| self.hidden(message)) {
            if part == CALLS {
                let error =
                    Error::unsupported(format!("{CALLS} of a message with this tokenizer"), "its chat template does not write them");
                return Err(
                    error.with_hint("name a tokenizer whose template writes calls with `tokenizer`, or write the calls into content")
                );
            }
            if self.told.lock().is_ok_and(|mut told| told.insert(part.to_owned())) {
                tracing::warn!("messages have {part}, which the chat template does not show: it is ignored");
            }
        }
        Ok(())
    }

    fn hidden<'m>(&'m self, message: &'m Message) -> impl Iterator<Item = &'m str> {
        let parts = message.0.iter().filter(|(part, value)| !USUAL.contains(&part.as_str()) && is_there(value));
        parts.map(|(part, _)| part.as_str()).filter(|part| !self.source.contains(part))
    }
}

fn is_there(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::chat::ChatTemplate;

    #[test]
    fn what_a_template_does_not_show_is_refused_or_told() {
        const PLAIN: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
        const CALLING: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m['role'] }}: {{ m.content }}\
            {% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n{% endfor %}";
        let call = r#"[{"role": "user", "content": "one"}, {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]"#;
        let plain = r#"[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two", "tool_calls": [], "id": 3}]"#;
        let rows = [
            (PLAIN, plain, "{}", None),
            (PLAIN, plain, r#"{"tools": []}"#, None),
            (PLAIN, plain, r#"{"tools": [{"name": "f"}]}"#, Some("the column tools with this tokenizer")),
            (PLAIN, plain, r#"{"documents": [{"title": "a"}]}"#, Some("the column documents with this tokenizer")),
            (PLAIN, call, "{}", Some("tool_calls of a message")),
            (CALLING, call, r#"{"tools": [{"name": "f"}]}"#, None),
        ];
        for (source, messages, variables, expected) in rows {
            let template = ChatTemplate::new(source, std::collections::BTreeMap::new()).expect("a template");
            let messages = Message::list(&serde_json::from_str(messages).expect("JSON")).expect("messages");
            let variables = serde_json::from_str(variables).expect("JSON");
            let found = template.render_marked(Conversation { messages, variables }).map(|_| ());
            match (found, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, expected) => panic!("{source}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
