//! The parameters of a request: each is read, or may only be what changes nothing, or is refused by its name.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::files::json::Told;

/// A parameter's name, and what it may be.
type Neutral = (&'static str, fn() -> Vec<Value>);

/// Parameters of OpenAI's API that are not honoured, with what they may be because it asks for nothing.
const NEUTRAL: [Neutral; 28] = [
    ("n", || vec![json!(1)]),
    ("best_of", || vec![json!(1)]),
    ("presence_penalty", || vec![json!(0)]),
    ("frequency_penalty", || vec![json!(0)]),
    ("logprobs", || vec![json!(false)]),
    ("top_logprobs", Vec::new),
    ("logit_bias", || vec![json!({})]),
    ("response_format", || vec![json!({"type": "text"})]),
    ("tools", || vec![json!([])]),
    ("tool_choice", || vec![json!("none")]),
    ("parallel_tool_calls", || vec![json!(true), json!(false)]),
    ("functions", || vec![json!([])]),
    ("function_call", || vec![json!("none")]),
    ("store", || vec![json!(false)]),
    ("metadata", || vec![json!({})]),
    ("service_tier", || vec![json!("auto"), json!("default")]),
    ("modalities", || vec![json!(["text"])]),
    ("suffix", || vec![json!("")]),
    ("echo", || vec![json!(false)]),
    ("dimensions", Vec::new),
    ("reasoning_effort", || vec![json!("none")]),
    ("verbosity", || vec![json!("medium")]),
    ("audio", Vec::new),
    ("prediction", Vec::new),
    ("web_search_options", Vec::new),
    ("min_p", || vec![json!(0)]),
    ("ignore_eos", || vec![json!(false)]),
    ("min_tokens", || vec![json!(0)]),
];

/// Names of who asks, and keys of caches: they change no answer.
const NAMES: [&str; 4] = ["user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// The fields of a request that were not read yet.
pub(super) struct Given {
    fields: Map<String, Value>,
    read: BTreeSet<&'static str>,
}

impl Given {
    /// # Errors
    /// A body that is no JSON object.
    pub(super) fn of(body: &[u8]) -> Result<Self, Refusal> {
        match serde_json::from_slice(body) {
            Ok(Told(Value::Object(fields))) => Ok(Self { fields, read: BTreeSet::new() }),
            Ok(_) => Err(Refusal::request("the body is JSON, but no object")),
            Err(error) => Err(Refusal::request(format!("the body is no JSON: {error}"))),
        }
    }

    /// A field that is there and not null.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.read.insert(name);
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// The model that is asked.
    pub(super) fn model(&mut self) -> Result<String, Refusal> {
        self.text("model")?.ok_or_else(|| Refusal::param("model", "model is missing: /v1/models lists the models that are here"))
    }

    /// A field that must be there.
    pub(super) fn need(&mut self, name: &'static str) -> Result<Value, Refusal> {
        self.take(name).ok_or_else(|| Refusal::param(name, format!("{name} is missing")))
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        let text = |value: Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "a text", &value));
        self.take(name).map(text).transpose()
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Refusal> {
        let flag = |value: Value| value.as_bool().ok_or_else(|| wrong(name, "true or false", &value));
        self.take(name).map_or(Ok(false), flag)
    }

    /// A number in a range whose words are given.
    pub(super) fn number(&mut self, name: &'static str, expected: &str, is_fine: fn(f64) -> bool) -> Result<Option<f64>, Refusal> {
        let number = |value: Value| value.as_f64().filter(|number| is_fine(*number)).ok_or_else(|| wrong(name, expected, &value));
        self.take(name).map(number).transpose()
    }

    /// A whole number from `least` on.
    pub(super) fn count(&mut self, name: &'static str, least: usize) -> Result<Option<usize>, Refusal> {
        let count = |value: Value| {
            let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count >= least);
            count.ok_or_else(|| wrong(name, &format!("a whole number from {least}"), &value))
        };
        self.take(name).map(count).transpose()
    }

    /// Refuses what was not read and asks for something.
    ///
    /// # Errors
    /// The first of such fields.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        for (name, value) in &self.fields {
            if value.is_null() || (NAMES.contains(&name.as_str()) && value.is_string()) {
                continue;
            }
            let Some((_, neutral)) = NEUTRAL.iter().find(|(neutral, _)| neutral == name) else {
                let known: Vec<&str> = self.read.iter().copied().collect();
                let message = format!("unknown parameter {name:?}; these are read here: {}", known.join(", "));
                return Err(Refusal::param(name, message).with_code("unknown_parameter"));
            };
            let neutral = neutral();
            if !neutral.iter().any(|neutral| is_same(neutral, value)) {
                let may_be = if neutral.is_empty() {
                    "leave it out".to_owned()
                } else {
                    format!("it may only be {}", neutral.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
                };
                let message = format!("{name} is not supported here; {may_be}");
                return Err(Refusal::param(name, message).with_code("unsupported_parameter"));
            }
        }
        Ok(())
    }
}

/// Whether two values say the same: 0 and 0.0 do.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

pub(super) fn wrong(name: &str, expected: &str, found: &Value) -> Refusal {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(80) {
        found.truncate(end);
        found.push_str("...");
    }
    Refusal::param(name, format!("{name}: expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(body: &str) -> Result<(), String> {
        let mut given = Given::of(body.as_bytes()).map_err(|refusal| refusal.message)?;
        given.text("model").map_err(|refusal| refusal.message)?;
        given.finish().map_err(|refusal| format!("{}: {}", refusal.param.unwrap_or_default(), refusal.message))
    }

    #[test]
    fn what_is_not_honoured_is_refused_unless_it_asks_for_nothing() {
        for fine in [
            r#"{"model": "a", "n": 1, "presence_penalty": 0.0, "logit_bias": {}, "user": "me", "tools": null, "stop": null}"#,
            r#"{"model": "a", "response_format": {"type": "text"}, "parallel_tool_calls": true, "logprobs": false}"#,
        ] {
            assert_eq!(finished(fine), Ok(()), "{fine}");
        }
        for (body, expected) in [
            (r#"{"n": 2}"#, "n: n is not supported here; it may only be 1"),
            (r#"{"top_logprobs": 3}"#, "top_logprobs: top_logprobs is not supported here; leave it out"),
            (r#"{"presence_penalty": 0.5}"#, "presence_penalty: presence_penalty is not supported here; it may only be 0"),
            (r#"{"temprature": 1}"#, "temprature: unknown parameter \"temprature\"; these are read here: model"),
            (r#"{"user": 3}"#, "user: unknown parameter \"user\"; these are read here: model"),
            (r#"{"model": 3}"#, "model: expected a text, found 3"),
            ("[]", "the body is JSON, but no object"),
        ] {
            assert_eq!(finished(body), Err(expected.to_owned()), "{body}");
        }
        assert!(finished("{").is_err_and(|words| words.starts_with("the body is no JSON")));
    }
}
