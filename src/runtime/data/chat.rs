//! Chat templates: the Jinja dialect in which Hugging Face tokenizers write how a conversation becomes text
//! (`transformers/utils/chat_template_utils.py`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said: text, or whatever else the template understands.
    #[serde(default)]
    pub content: Value,
    /// What else the template may read, such as `name` or `tool_calls`.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After the last message.
    Complete,
    /// With what opens the assistant's next message.
    AssistantsTurn,
}

/// A conversation as text, and where the assistant speaks in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rendered {
    pub text: String,
    /// Byte ranges of the text, in order: from where the assistant's turn has been opened to where it has been closed.
    pub spoken: Vec<Range<usize>>,
}

/// A compiled chat template with the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compiles a template. `tokens` are the variables `bos_token`, `eos_token` and the like.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) if it is no template.
    pub fn new(source: &str, tokens: BTreeMap<String, String>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(whitespace()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, now()));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(|error| bad_template(&error))?;
        Ok(Self { environment, tokens })
    }

    /// A conversation as text.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the template refuses the conversation.
    pub fn render(&self, messages: &[Message], ending: Ending) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|error| bad_template(&error))?;
        let variables = context! {
            messages => minijinja::Value::from(Serde(messages)),
            add_generation_prompt => ending == Ending::AssistantsTurn,
            ..Serde(&self.tokens)
        };
        template.render(variables).map_err(|error| {
            let why = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
            Error::invalid(format!("the chat template refuses these messages: {why}"))
        })
    }

    /// A conversation as text with the assistant's turns marked. A turn is what its message adds to the conversation so far with the turn opened.
    pub(super) fn render_marked(&self, messages: &[Message]) -> Result<Rendered> {
        let text = self.render(messages, Ending::Complete)?;
        let mut spoken = vec![];
        for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let opened = self.render(&messages[..index], Ending::AssistantsTurn)?;
            let closed = self.render(&messages[..=index], Ending::Complete)?;
            // A template may write earlier turns differently once there are later ones; what the text shares with the shorter one is sure.
            let start = shared(&text, &opened);
            let end = shared(&text, &closed);
            if start < end {
                spoken.push(start..end);
            }
        }
        Ok(Rendered { text, spoken })
    }
}

/// A tag on a line of its own leaves nothing of the line.
fn whitespace() -> Result<SyntaxConfig> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|error| bad_template(&error))
}

/// The length of the longest common beginning of two texts, at a character's border.
fn shared(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Drops `{% generation %}`, with which transformers marks the assistant's words: it is no Jinja, and the words are found without it.
fn without_generation_tags(source: &str) -> String {
    let tag = Regex::new(r"\{%-?\s*(end)?generation\s*-?%\}").expect("the pattern is valid");
    tag.replace_all(source, "").into_owned()
}

fn bad_template(error: &minijinja::Error) -> Error {
    Error::format("a chat template", error)
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

#[expect(clippy::needless_pass_by_value, reason = "the form that a filter must have")]
/// Python's `json.dumps`: a space after commas and colons, no HTML escapes; `indent` is honoured.
fn to_json(value: &minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut text = vec![];
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, PythonFormatter)),
    };
    let bad = |error: String| minijinja::Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| bad(error.to_string()))?;
    String::from_utf8(text).map_err(|error| bad(error.to_string()))
}

struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The codes of `strftime` that chat templates use, for a time in seconds since 1970, UTC.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    let (year, month, day) = date(seconds / 86_400);
    let name = MONTHS[usize::try_from(month - 1).expect("months are small")];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let part = |code: Option<char>| match code {
        Some('Y') => year.to_string(),
        Some('m') => format!("{month:02}"),
        Some('d') => format!("{day:02}"),
        Some('B') => name.to_owned(),
        Some('b') => name[..3].to_owned(),
        Some('H') => format!("{hour:02}"),
        Some('M') => format!("{minute:02}"),
        Some('S') => format!("{second:02}"),
        Some('%') | None => "%".to_owned(),
        Some(other) => format!("%{other}"),
    };
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character == '%' {
            text.push_str(&part(rest.next()));
        } else {
            text.push(character);
        }
    }
    text
}

/// Year, month from 1 and day from 1 of a number of days since 1970-01-01, counting through the calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        (year, left) = (year + 1, left - length);
    }
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        (month, left) = (month + 1, left - length);
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'].strip() + '<|end|>\\n' }}{% endfor %}\
                          {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

    fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
        let message =
            |(role, content): &(&str, &str)| Message { role: (*role).into(), content: (*content).into(), other: serde_json::Map::new() };
        turns.iter().map(message).collect()
    }

    fn template(source: &str) -> Result<ChatTemplate> {
        ChatTemplate::new(source, [("bos_token".to_owned(), "<s>".to_owned())].into())
    }

    #[test]
    fn templates_of_hugging_face_are_rendered() -> Result<()> {
        struct Case(&'static str, Ending, &'static str);
        let turns = messages(&[("system", "Be brief."), ("user", " Hi <you> ")]);
        for Case(source, ending, expected) in [
            Case(CHATML, Ending::Complete, "<|system|>Be brief.<|end|>\n<|user|>Hi <you><|end|>\n"),
            Case(CHATML, Ending::AssistantsTurn, "<|system|>Be brief.<|end|>\n<|user|>Hi <you><|end|>\n<|assistant|>"),
            Case(
                "{{ bos_token }}{% if tools is defined and tools %}T{% endif %}{{ messages[0].role.upper() }}",
                Ending::Complete,
                "<s>SYSTEM",
            ),
            Case(
                "{%- for m in messages %}\n    {%- if loop.first %}\n        {%- continue %}\n    {%- endif %}\n    {{- m.content }}\n{%- endfor %}",
                Ending::Complete,
                " Hi <you> ",
            ),
            Case(
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                Ending::Complete,
                "2",
            ),
            Case("{{ messages[1:] | tojson }}", Ending::Complete, "[{\"role\": \"user\", \"content\": \" Hi <you> \"}]"),
            Case("{% generation %}{{ messages|length }}{%- endgeneration -%}", Ending::Complete, "2"),
            Case("{{ 'system' in messages[0].values() }} {{ messages[0]['content'].split(' ')[1] }}", Ending::Complete, "True brief."),
        ] {
            assert_eq!(template(source)?.render(&turns, ending)?, expected, "{source}");
        }
        Ok(())
    }

    #[test]
    fn only_the_assistants_turns_are_marked() -> Result<()> {
        let turns = messages(&[("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]);
        let rendered = template(CHATML)?.render_marked(&turns)?;
        let spoken: Vec<&str> = rendered.spoken.iter().map(|span| &rendered.text[span.clone()]).collect();
        assert_eq!(spoken, ["two<|end|>\n", "four<|end|>\n"]);
        Ok(())
    }

    #[test]
    fn refusals_and_errors_say_why() -> Result<()> {
        let refusing = template("{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}")?;
        let error = refusing.render(&messages(&[("assistant", "x")]), Ending::Complete).unwrap_err();
        assert_eq!(error.to_string(), "the chat template refuses these messages: roles must alternate");
        assert!(template("{% for %}").unwrap_err().to_string().starts_with("not a chat template: "));
        Ok(())
    }

    #[test]
    fn dates_are_written_as_templates_ask() {
        struct Case(u64, &'static str);
        for Case(seconds, expected) in [
            Case(0, "01 Jan 1970 1970-01-01 00:00:00 January 100% %q"),
            Case(951_782_399, "28 Feb 2000 2000-02-28 23:59:59 February 100% %q"),
            Case(951_782_400, "29 Feb 2000 2000-02-29 00:00:00 February 100% %q"),
            Case(1_735_689_599, "31 Dec 2024 2024-12-31 23:59:59 December 100% %q"),
        ] {
            assert_eq!(strftime("%d %b %Y %Y-%m-%d %H:%M:%S %B 100%% %q", seconds), expected);
        }
    }
}
