//! Chat templates: the Jinja dialect in which Hugging Face tokenizers write how a conversation becomes text
//! (`transformers/utils/chat_template_utils.py`).

mod filters;
mod methods;
mod python;
mod shown;
mod source;
mod tags;
mod text;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::shown::Shown;
use self::source::{BEGINS, ENDS, Source};
use super::weights::weight;
use crate::error::{Error, Result};

/// One turn of a conversation: an object with a `role` and whatever the template reads, such as `content`, `name` or `tool_calls`, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// What somebody says: `system`, `user` or `assistant`.
    #[must_use]
    pub fn says(role: &str, content: &str) -> Self {
        Self([("role".to_owned(), role.into()), ("content".to_owned(), content.into())].into_iter().collect())
    }

    /// The turns of a conversation.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if this is no list of objects with a role.
    pub(super) fn list(value: &Value) -> Result<Vec<Self>> {
        let wrong = |found: String| {
            let error = Error::mismatch("messages", "a list of objects with role and content", found);
            error.with_hint("a message is {\"role\": \"user\", \"content\": \"Hello\"}; usual roles are system, user and assistant")
        };
        let messages: Vec<Self> = Deserialize::deserialize(value).map_err(|error: serde_json::Error| wrong(error.to_string()))?;
        match messages.iter().position(|message| message.role().is_empty()) {
            Some(at) => Err(wrong(format!("message {} without a role", at + 1))),
            None => Ok(messages),
        }
    }

    /// What is said, if there is anything.
    pub(super) fn content(&mut self) -> Option<&mut Value> {
        self.0.get_mut("content")
    }

    /// Who speaks; empty if that is not said.
    #[must_use]
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Messages as a template of pictures reads them: contents are lists, and where none has the picture, it comes first in what the user says
    /// first (TRL's `prepare_multimodal_messages`).
    pub fn with_picture(messages: &mut [Self]) {
        let item = |kind: &str, text: Option<&Value>| {
            let mut item: Map<String, Value> = [("type".to_owned(), Value::from(kind))].into_iter().collect();
            item.extend(text.map(|text| ("text".to_owned(), text.clone())));
            Value::Object(item)
        };
        let mut has_picture = false;
        for content in messages.iter_mut().filter_map(Self::content) {
            match content {
                Value::String(_) => *content = Value::Array(vec![item("text", Some(content))]),
                Value::Array(items) => has_picture |= items.iter().any(|item| item["type"] == "image"),
                _ => {}
            }
        }
        let first = messages.iter_mut().find(|message| message.role() == "user").and_then(Self::content);
        if let Some(Value::Array(items)) = first.filter(|_| !has_picture) {
            items.insert(0, item("image", None));
        }
    }

    /// What an assistant's words weigh, as `weight` says: 1 by default, and 0 for what is not learnt. No template is shown the weight.
    fn take_weight(&mut self) -> Result<f64> {
        match self.0.shift_remove("weight") {
            None | Some(Value::Null) => Ok(1.0),
            Some(given) if self.role() == "assistant" => weight(&given, "a message"),
            Some(given) => Err(Error::mismatch("weight of a message", "an assistant's", format!("{given} of the role {:?}", self.role()))
                .with_hint("an assistant's message of weight 0 is shown and not learnt; leave weight out of the others")),
        }
    }
}

/// What a template is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// Other variables: `tools`, `documents`.
    pub variables: Map<String, Value>,
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
    /// In order, what is learnt: from where the assistant's turn has been opened to where it has been closed, or as the template marks it.
    pub spoken: Vec<Spoken>,
}

/// What the assistant says in a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spoken {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// What it weighs, above 0.
    pub weight: f64,
}

/// A compiled chat template with the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: BTreeMap<String, String>,
    /// Whether the template marks the assistant's words itself.
    is_marked: bool,
    variables: BTreeSet<String>,
    shown: Shown,
}

/// Steps that a template may take, of which one pays for 64 bytes of text: about a second, and hundreds of times what the longest known ones take.
const STEPS: u64 = 3_000_000;

/// Bytes of stack for the engine's compiler, which calls itself; [`Source`] bounds how often.
const STACK: usize = 64 << 20;

impl ChatTemplate {
    /// Compiles a template. `tokens` are the variables `bos_token`, `eos_token` and the like.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) if it is no template, [`Invalid`](crate::ErrorKind::Invalid) if it is too deep.
    pub fn new(source: &str, tokens: BTreeMap<String, String>) -> Result<Self> {
        let Source { text, is_marked } = Source::of(source)?;
        let compile = move || {
            let mut environment = python::environment().map_err(|error| bad_template(&error))?;
            environment.set_fuel(Some(STEPS));
            environment.add_template_owned("chat", text).map_err(|error| bad_template(&error))?;
            let variables = environment.get_template("chat").map(|template| template.undeclared_variables(false)).unwrap_or_default();
            Ok::<_, Error>((environment, variables.into_iter().collect()))
        };
        let compiler = std::thread::Builder::new().stack_size(STACK).spawn(compile)?;
        let (environment, variables) = compiler.join().map_err(|_| Error::invalid("the chat template cannot be compiled"))??;
        Ok(Self { environment, tokens, is_marked, variables, shown: Shown::of(source) })
    }

    /// Whether the template reads a variable: one that it does not read is not shown to the model.
    #[must_use]
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// A conversation as text.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the template refuses the conversation, or does not come to an end.
    pub fn render(&self, messages: &[Message], ending: Ending) -> Result<String> {
        let text = self.render_with(messages, &Map::new(), ending)?;
        Ok(if self.is_marked { text.replace([BEGINS, ENDS], "") } else { text })
    }

    /// As [`render`](Self::render), with variables and with marks.
    fn render_with(&self, messages: &[Message], variables: &Map<String, Value>, ending: Ending) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|error| bad_template(&error))?;
        let mut others: Map<String, Value> = ["tools", "documents"].map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        others.extend(self.tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str()))));
        others.extend(variables.clone());
        let given = context! {
            messages => minijinja::Value::from(Serde(messages)),
            add_generation_prompt => ending == Ending::AssistantsTurn,
            ..Serde(others)
        };
        template.render(given).map_err(|error| {
            if error.kind() == ErrorKind::OutOfFuel {
                return Error::invalid("the chat template does not come to an end, or makes a text beyond reason")
                    .with_hint("is it the one that came with the tokenizer? name another folder with `tokenizer`");
            }
            let why = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
            Error::invalid(format!("the chat template refuses these messages: {why}"))
                .with_hint("the template is in chat_template.jinja or tokenizer_config.json beside tokenizer.json")
        })
    }

    /// A conversation as text, whatever its messages weigh.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub(super) fn render_for(&self, mut conversation: Conversation, ending: Ending) -> Result<String> {
        for message in &mut conversation.messages {
            message.take_weight()?;
        }
        self.render_with(&conversation.messages, &conversation.variables, ending).map(|text| unmarked(&text).0)
    }

    /// A conversation as text with the assistant's turns marked. Where the template does not mark them, a turn is what its message adds to the
    /// conversation so far with the turn opened.
    pub(super) fn render_marked(&self, mut conversation: Conversation) -> Result<Rendered> {
        let weights = conversation.messages.iter_mut().map(Message::take_weight).collect::<Result<Vec<_>>>()?;
        self.shown.check(&conversation, |variable| self.reads(variable))?;
        let Conversation { messages, variables } = &conversation;
        let (text, marked) = unmarked(&self.render_with(messages, variables, Ending::Complete)?);
        if self.is_marked && weights.iter().all(|weight| weight.to_bits() == 1.0_f64.to_bits()) {
            return Ok(Rendered { text, spoken: marked.into_iter().map(|range| Spoken { range, weight: 1.0 }).collect() });
        }
        let mut spoken = vec![];
        for (index, _) in messages.iter().enumerate().filter(|(index, message)| message.role() == "assistant" && weights[*index] > 0.0) {
            let opened = unmarked(&self.render_with(&messages[..index], variables, Ending::AssistantsTurn)?).0;
            let closed = unmarked(&self.render_with(&messages[..=index], variables, Ending::Complete)?).0;
            // A template may write earlier turns differently once there are later ones; what the text shares with the shorter one is sure.
            let start = shared(&text, &opened);
            let end = shared(&text, &closed);
            if start < end {
                spoken.push(Spoken { range: start..end, weight: weights[index] });
            }
        }
        if self.is_marked {
            let both = |turn: &Spoken| {
                let within = |mark: &Range<usize>| mark.start.max(turn.range.start)..mark.end.min(turn.range.end);
                marked.iter().map(within).map(|range| Spoken { range, weight: turn.weight }).collect::<Vec<_>>()
            };
            spoken = spoken.iter().flat_map(both).filter(|spoken| spoken.range.start < spoken.range.end).collect();
        }
        Ok(Rendered { text, spoken })
    }
}

/// A text without marks, and what stood between them.
fn unmarked(text: &str) -> (String, Vec<Range<usize>>) {
    let (mut plain, mut ranges, mut open) = (String::with_capacity(text.len()), vec![], None);
    for part in text.split_inclusive([BEGINS, ENDS]) {
        let mark = part.chars().next_back().filter(|mark| [BEGINS, ENDS].contains(mark));
        plain += &part[..part.len() - mark.map_or(0, char::len_utf8)];
        match mark {
            Some(BEGINS) => open = open.or(Some(plain.len())),
            Some(_) => ranges.extend(open.take().map(|start| start..plain.len())),
            None => {}
        }
    }
    (plain, ranges)
}

/// The length of the longest common beginning of two texts, at a character's border.
fn shared(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

fn bad_template(error: &minijinja::Error) -> Error {
    Error::format("a chat template", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'].strip() + '<|end|>\\n' }}{% endfor %}\
                          {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

    fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::says(role, content)).collect()
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
            Case(
                "a \n  {%- generation -%}  b {% endgeneration %}\nc\n  {% generation %}\nd{% endgeneration %} e",
                Ending::Complete,
                "ab c\nd e",
            ),
            Case(
                "{{ tools is none }} {{ documents is defined }} {{ 'content' in messages[0] }} {{ 'name' in messages[0] }}",
                Ending::Complete,
                "True True True False",
            ),
            Case(
                "{{ '%s: %d%%' % ('a', 3) }} {{ '%(role)s' % messages[0] }} {{ 7 % 3 }} {{ -7 % 3 }}",
                Ending::Complete,
                "a: 3% system 1 2",
            ),
            Case(
                "{{ {'b': [1, true, none], 'a': 'é<'} | tojson(sort_keys=true) }}",
                Ending::Complete,
                "{\"a\": \"é<\", \"b\": [1, true, null]}",
            ),
            Case(
                "{{ {'b': [1, {}], 'a': 'é😀'} | tojson(ensure_ascii=true, separators=(',', ':')) }}",
                Ending::Complete,
                "{\"b\":[1,{}],\"a\":\"\\u00e9\\ud83d\\ude00\"}",
            ),
            Case("{{ {'b': [1, []]} | tojson(indent=2) }}", Ending::Complete, "{\n  \"b\": [\n    1,\n    []\n  ]\n}"),
            Case("{{ 'system' in messages[0].values() }} {{ messages[0]['content'].split(' ')[1] }}", Ending::Complete, "True brief."),
        ] {
            assert_eq!(template(source)?.render(&turns, ending)?, expected, "{source}");
        }
        Ok(())
    }

    #[test]
    fn only_the_assistants_turns_are_marked() -> Result<()> {
        let turns = messages(&[("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]);
        let rendered = template(CHATML)?.render_marked(Conversation { messages: turns, ..Conversation::default() })?;
        let spoken: Vec<&str> = rendered.spoken.iter().map(|spoken| &rendered.text[spoken.range.clone()]).collect();
        assert_eq!(spoken, ["two<|end|>\n", "four<|end|>\n"]);
        Ok(())
    }

    #[test]
    fn what_a_template_marks_is_the_assistants_and_nothing_else() -> Result<()> {
        let source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %} {%- generation -%} {{ m.content }}; {%- endgeneration %} {% else %}{{ m.content }} {% endif %}{% endfor %}";
        let turns = messages(&[("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]);
        let template = template(source)?;
        assert_eq!(template.render(&turns, Ending::Complete)?, "[user]one [assistant]two; [user]three [assistant]four; ");
        let rendered = template.render_marked(Conversation { messages: turns, ..Conversation::default() })?;
        let spoken: Vec<&str> = rendered.spoken.iter().map(|spoken| &rendered.text[spoken.range.clone()]).collect();
        assert_eq!(spoken, ["two;", "four;"]);
        Ok(())
    }

    #[test]
    fn templates_without_an_end_are_errors() -> Result<()> {
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
            "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
            "{{ ('x' * 100000000000)|length }}",
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        ] {
            let error = template(source)?.render(&messages(&[("user", "x")]), Ending::Complete).unwrap_err();
            assert!(error.to_string().contains("chat template") && error.hint().is_some(), "{source}: {error}");
        }
        Ok(())
    }

    #[test]
    fn values_that_share_others_without_bound_are_errors_in_time() -> Result<()> {
        let twice = |set: &str| format!("{{% set n = namespace(x=[1], y=[1]) %}}{{% for i in range(60) %}}{set}{{% endfor %}}");
        let lists = twice("{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}");
        let makers = [
            lists.clone(),
            twice("{% set n.x = n.x + n.x %}"),
            twice("{% set n.x = {'a': n.x, 'b': n.x} %}"),
            twice("{% set n.x = n.x, n.x %}"),
            twice("{% set n.x = (n.x, n.x) %}"),
            twice("{% set n.x = dict(a=n.x, b=n.x) %}"),
            twice("{% set n.x = [1, 2]|map(attribute='z', default=n.x)|list %}"),
            twice("{% set n.x = [1]|batch(3, n.x)|list %}"),
            twice("{% set n.x = n.x|chain(n.x) %}"),
            twice("{% set n.x = n.x|zip(n.x)|list %}"),
            "{% macro f(x, i) %}{% if i %}{{ f([x, x], i - 1) }}{% else %}{{ x|tojson }}{% endif %}{% endmacro %}{{ f(1, 60) }}".to_owned(),
            "{% macro f(x, i) %}{% if i %}{{ f(x + x, i - 1) }}{% else %}{{ x|tojson }}{% endif %}{% endmacro %}{{ f([1], 60) }}"
                .to_owned(),
            "{% macro f(x, i) %}{% if i %}{{ f((x, x), i - 1) }}{% else %}{{ x|tojson }}{% endif %}{% endmacro %}{{ f(1, 60) }}".to_owned(),
        ];
        let readers = ["n.x", "n.x|tojson|length", "n.x == n.y", "n.x in [n.y]", "[n.x]|join('')", "'a' ~ n.x", "raise_exception(n.x)"];
        let read = readers.map(|reader| format!("{lists}{{{{ {reader} }}}}"));
        for source in makers.into_iter().chain(read) {
            let begun = std::time::Instant::now();
            let error = template(&source)?.render(&messages(&[("user", "x")]), Ending::Complete).unwrap_err();
            assert!(error.to_string().contains("chat template"), "{source}: {error}");
            assert!(begun.elapsed().as_secs() < 10, "{source}: {:?}", begun.elapsed());
        }
        // What templates do with many messages is far from it.
        let many = messages(&vec![("user", "x"); 5000]);
        let source = "{% set n = namespace(all=[]) %}{% for m in messages %}{% set n.all = n.all + [m] %}{% endfor %}{{ n.all|length }}";
        assert_eq!(template(source)?.render(&many, Ending::Complete)?, "5000");
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
}
