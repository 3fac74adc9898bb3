//! `/v1/chat/completions` and `/v1/completions`, whole or as events.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Kind;
use super::fields::{Given, wrong};
use super::job::{Job, Piece, Write};
use super::refusal::Refusal;
use super::server::{Server, Turn, named};
use crate::data::{Ending, Message, Specials};
use crate::error::Error;
use crate::generate::Sampling;

/// Tokens of a continued text where nothing else is asked for, as OpenAI's API has it.
const CONTINUED: usize = 16;
/// Texts before which an answer ends, at most, as in OpenAI's API.
const MOST_STOPS: usize = 4;
/// Prompts of a request, at most.
const MOST_PROMPTS: usize = 128;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerForm {
    Chat,
    Text,
}

/// What a request wants written, beside its prompt.
struct Asked {
    model: String,
    new_tokens: Option<usize>,
    sampling: Sampling,
    stops: Vec<String>,
    is_streamed: bool,
    /// Whether the last event has the numbers of tokens.
    has_usage: bool,
}

pub(super) async fn chat(server: &Server, mut given: Given, turn: Turn) -> Result<Response, Refusal> {
    let messages = messages(&given.need("messages")?)?;
    let newer = given.count("max_completion_tokens", 1)?;
    let asked = Asked::read(server, &mut given, newer)?;
    given.finish()?;
    server.expect(Kind::Text)?;
    let tokenizer = &server.face.tokenizer;
    let template = tokenizer.chat().ok_or_else(|| {
        Refusal::request("the tokenizer has no chat template; /v1/completions continues a text as it is").with_code("no_chat_template")
    })?;
    let longest = server.face.longest;
    let rendered = template.render(&messages, Ending::AssistantsTurn);
    let prompt = rendered.and_then(|text| Ok(tokenizer.encode_beginning(&text, Specials::AsWritten, Some(longest))?.ids));
    let prompt = prompt.and_then(|prompt| fitting(prompt, longest));
    let prompt = prompt.map_err(|error| Refusal { param: Some("messages".to_owned()), ..error.into() })?;
    let most = server.face.limits.max_tokens;
    answer(server, AnswerForm::Chat, vec![prompt], asked, most, turn).await
}

pub(super) async fn completions(server: &Server, mut given: Given, turn: Turn) -> Result<Response, Refusal> {
    let prompt = given.need("prompt")?;
    let asked = Asked::read(server, &mut given, None)?;
    given.finish()?;
    server.expect(Kind::Text)?;
    let most = server.face.limits.max_tokens.min(CONTINUED);
    answer(server, AnswerForm::Text, prompts(server, &prompt)?, asked, most, turn).await
}

impl Asked {
    fn read(server: &Server, given: &mut Given, newer: Option<usize>) -> Result<Self, Refusal> {
        let model = given.model()?;
        let older = given.count("max_tokens", 1)?;
        if let (Some(newer), Some(older)) = (newer, older)
            && newer != older
        {
            return Err(Refusal::param("max_tokens", "max_tokens and max_completion_tokens say different numbers"));
        }
        let new_tokens = newer.or(older);
        let most = server.face.limits.max_tokens;
        if new_tokens.is_some_and(|tokens| tokens > most) {
            return Err(Refusal::param("max_tokens", format!("max_tokens: the server writes at most {most} tokens")));
        }
        let sampling = Sampling {
            temperature: given.number("temperature", "a number from 0 to 2", |number| (0.0..=2.0).contains(&number))?.unwrap_or(1.0),
            top_p: given.number("top_p", "a number above 0, up to 1", |number| number > 0.0 && number <= 1.0)?.unwrap_or(1.0),
            top_k: given.count("top_k", 1)?,
            repetition_penalty: given.number("repetition_penalty", "a number above 0", |number| number > 0.0)?.unwrap_or(1.0),
            seed: seed(given)?,
        };
        let stops = stops(given)?;
        let is_streamed = given.flag("stream")?;
        let has_usage = usage_is_wanted(given, is_streamed)?;
        Ok(Self { model, new_tokens, sampling, stops, is_streamed, has_usage })
    }
}

/// The seed that is given, else one that nobody knows.
fn seed(given: &mut Given) -> Result<u64, Refusal> {
    match given.take("seed") {
        None => Ok(RandomState::new().build_hasher().finish()),
        Some(value) => match (value.as_u64(), value.as_i64()) {
            (Some(seed), _) => Ok(seed),
            (None, Some(seed)) => Ok(u64::from_ne_bytes(seed.to_ne_bytes())),
            (None, None) => Err(wrong("seed", "a whole number", &value)),
        },
    }
}

fn stops(given: &mut Given) -> Result<Vec<String>, Refusal> {
    let Some(value) = given.take("stop") else { return Ok(vec![]) };
    let expected = || wrong("stop", &format!("a text, or up to {MOST_STOPS}, that are not empty"), &value);
    let stops: Vec<String> = match &value {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(stops) => stops.iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(expected)).collect::<Result<_, _>>()?,
        _ => return Err(expected()),
    };
    if stops.len() > MOST_STOPS || stops.iter().any(String::is_empty) { Err(expected()) } else { Ok(stops) }
}

fn usage_is_wanted(given: &mut Given, is_streamed: bool) -> Result<bool, Refusal> {
    let Some(options) = given.take("stream_options") else { return Ok(false) };
    let fields = options.as_object().filter(|_| is_streamed);
    let fields = fields.ok_or_else(|| wrong("stream_options", "an object, where stream is true", &options))?;
    if let Some(name) = fields.keys().find(|name| !["include_usage", "include_obfuscation"].contains(&name.as_str())) {
        return Err(Refusal::param("stream_options", format!("stream_options: {name} is not known")));
    }
    if fields.get("include_obfuscation").is_some_and(|wanted| wanted.as_bool() == Some(true)) {
        return Err(Refusal::param("stream_options", "stream_options: include_obfuscation is not supported here"));
    }
    Ok(fields.get("include_usage").and_then(Value::as_bool).unwrap_or(false))
}

/// The messages of a conversation: roles and texts.
fn messages(value: &Value) -> Result<Vec<Message>, Refusal> {
    let wrong = |what: String| Refusal::param("messages", format!("messages: {what}"));
    let all = value.as_array().filter(|all| !all.is_empty()).ok_or_else(|| wrong("expected a list of messages".to_owned()))?;
    let message = |(at, message): (usize, &Value)| {
        let fields = message.as_object().ok_or_else(|| wrong(format!("message {at} is no object")))?;
        let other = fields.iter().find(|(name, value)| !["role", "content"].contains(&name.as_str()) && !value.is_null());
        if let Some((name, _)) = other {
            return Err(wrong(format!("{name} of message {at} is not supported here")));
        }
        let role = fields.get("role").and_then(Value::as_str).ok_or_else(|| wrong(format!("message {at} has no role")))?;
        let content = match fields.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().map(|part| text_of(part, at)).collect::<Result<Vec<_>, _>>()?.join("\n"),
            _ => return Err(wrong(format!("message {at} has no content"))),
        };
        Ok(Message::says(role, &content))
    };
    all.iter().enumerate().map(message).collect()
}

/// The text of a part of a message.
fn text_of(part: &Value, at: usize) -> Result<String, Refusal> {
    let text = part["text"].as_str().filter(|_| part["type"] == "text");
    let found = part["type"].as_str().unwrap_or("something else");
    text.map(str::to_owned).ok_or_else(|| Refusal::param("messages", format!("messages: message {at} has {found}; only text is read here")))
}

/// A prompt, unless the model has no room for it.
fn fitting(prompt: Vec<i32>, longest: usize) -> Result<Vec<i32>, Error> {
    if prompt.len() < longest {
        return Ok(prompt);
    }
    Err(Error::mismatch("tokens in the prompt", format!("fewer than {longest}"), format!("{longest} or more")))
}

/// The tokens of each prompt: of a text, of several, or of one that is given as tokens.
fn prompts(server: &Server, value: &Value) -> Result<Vec<Vec<i32>>, Refusal> {
    let expected = || wrong("prompt", &format!("a text, up to {MOST_PROMPTS} texts, or the tokens of one"), value);
    let encode = |text: &str| {
        let longest = server.face.longest;
        let tokens = server.face.tokenizer.encode_to_continue(text, Some(longest)).and_then(|prompt| fitting(prompt, longest));
        tokens.map_err(|error| Refusal { param: Some("prompt".to_owned()), ..error.into() })
    };
    let all = match value {
        Value::String(text) => return Ok(vec![encode(text)?]),
        Value::Array(all) if !all.is_empty() && all.len() <= MOST_PROMPTS || value[0].is_number() => value.as_array(),
        _ => None,
    };
    let all = all.ok_or_else(expected)?;
    if all[0].is_number() {
        let size = server.face.tokenizer.vocabulary_size();
        let token = |token: &Value| {
            let id = token.as_u64().filter(|id| usize::try_from(*id).is_ok_and(|id| id < size)).and_then(|id| i32::try_from(id).ok());
            id.ok_or_else(|| wrong("prompt", &format!("tokens from 0 to {}", size.saturating_sub(1)), token))
        };
        return Ok(vec![all.iter().map(token).collect::<Result<_, _>>()?]);
    }
    all.iter().map(|text| encode(text.as_str().ok_or_else(expected)?)).collect()
}

type Pieces = UnboundedReceiver<Result<Piece, Refusal>>;

async fn answer(
    server: &Server,
    form: AnswerForm,
    prompts: Vec<Vec<i32>>,
    asked: Asked,
    usual: usize,
    turn: Turn,
) -> Result<Response, Refusal> {
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let mut texts = vec![];
    for prompt in prompts {
        let (reply, pieces) = mpsc::unbounded_channel();
        let (model, stops, sampling) = (asked.model.clone(), asked.stops.clone(), asked.sampling);
        let new_tokens = asked.new_tokens.unwrap_or(usual);
        server.send(Job::Write(Write { model, prompt, new_tokens, sampling, stops, ends: turn.ends, reply }))?;
        texts.push(pieces);
    }
    let (id, created) = named(if form == AnswerForm::Chat { "chatcmpl" } else { "cmpl" });
    let told = Told { form, id, created, model: asked.model, prompt_tokens, has_usage: asked.has_usage };
    if asked.is_streamed { told.streamed(texts, turn).await } else { told.whole(texts, turn).await }
}

/// What an answer is told with.
struct Told {
    form: AnswerForm,
    id: String,
    created: u64,
    model: String,
    prompt_tokens: usize,
    has_usage: bool,
}

impl Told {
    async fn whole(&self, texts: Vec<Pieces>, _turn: Turn) -> Result<Response, Refusal> {
        let (mut choices, mut written) = (vec![], 0);
        for (index, mut pieces) in texts.into_iter().enumerate() {
            let mut text = String::new();
            let (tokens, reason) = loop {
                match pieces.recv().await.unwrap_or_else(|| Err(stopping()))? {
                    Piece::Text(piece) => text += &piece,
                    Piece::End { rest, tokens, reason } => {
                        text += &rest;
                        break (tokens, reason);
                    }
                }
            };
            written += tokens;
            let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason.name()});
            match self.form {
                AnswerForm::Chat => choice["message"] = json!({"role": "assistant", "content": text, "refusal": null}),
                AnswerForm::Text => choice["text"] = text.into(),
            }
            choices.push(choice);
        }
        let object = if self.form == AnswerForm::Chat { "chat.completion" } else { "text_completion" };
        let mut answer = self.begun(object, &choices);
        answer["usage"] = self.usage(written);
        Ok(axum::Json(answer).into_response())
    }

    /// The pieces as events. What goes wrong before the first is an answer of its own.
    async fn streamed(self, texts: Vec<Pieces>, turn: Turn) -> Result<Response, Refusal> {
        let mut texts = texts.into_iter();
        let Some(mut first) = texts.next() else { return Err(stopping()) };
        let piece = first.recv().await.unwrap_or_else(|| Err(stopping()))?;
        let (events, told) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            let _turn = turn;
            let _ = self.tell(Some(piece), std::iter::once(first).chain(texts), &events).await;
        });
        Ok(Sse::new(ReceiverStream::new(told).map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response())
    }

    /// Sends all texts as events, one after the other; nothing more once nobody listens.
    async fn tell(
        &self,
        mut begun: Option<Piece>,
        texts: impl Iterator<Item = Pieces>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let mut written = 0;
        for (index, mut pieces) in texts.enumerate() {
            if self.form == AnswerForm::Chat {
                events.send(event(&self.chunk(index, json!({"role": "assistant", "content": ""}), None))).await?;
            }
            loop {
                let piece = match begun.take() {
                    Some(piece) => Ok(piece),
                    None => pieces.recv().await.unwrap_or_else(|| Err(stopping())),
                };
                match piece {
                    Ok(Piece::Text(text)) => events.send(event(&self.chunk(index, self.delta(text), None))).await?,
                    Ok(Piece::End { rest, tokens, reason }) => {
                        written += tokens;
                        if !rest.is_empty() {
                            events.send(event(&self.chunk(index, self.delta(rest), None))).await?;
                        }
                        let nothing = if self.form == AnswerForm::Chat { json!({}) } else { "".into() };
                        events.send(event(&self.chunk(index, nothing, Some(reason.name())))).await?;
                        break;
                    }
                    Err(refusal) => return events.send(event(&refusal.json())).await,
                }
            }
        }
        if self.has_usage {
            let mut last = self.begun(self.object(), &[]);
            last["usage"] = self.usage(written);
            events.send(event(&last)).await?;
        }
        events.send(Event::default().data("[DONE]")).await
    }

    fn object(&self) -> &'static str {
        if self.form == AnswerForm::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn delta(&self, text: String) -> Value {
        if self.form == AnswerForm::Chat { json!({"content": text}) } else { text.into() }
    }

    fn chunk(&self, index: usize, delta: Value, reason: Option<&str>) -> Value {
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason});
        choice[if self.form == AnswerForm::Chat { "delta" } else { "text" }] = delta;
        let mut chunk = self.begun(self.object(), &[choice]);
        if self.has_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn begun(&self, object: &str, choices: &[Value]) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    fn usage(&self, written: usize) -> Value {
        json!({"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": self.prompt_tokens + written})
    }
}

/// Events that wait for who reads them.
const EVENTS: usize = 64;

fn event(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

fn stopping() -> Refusal {
    Refusal::status(axum::http::StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}
