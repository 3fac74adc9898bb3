//! `/v1/embeddings` and `/classify`.

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::Kind;
use super::fields::{Given, wrong};
use super::job::{Answer, Answered, AnsweredRows, Job, Wanted};
use super::refusal::Refusal;
use super::server::{Server, Turn, named};
use crate::data::Fields;

/// Texts of a request, at most.
const MOST_ROWS: usize = 2048;

/// The columns that a row to be classified may have.
const COLUMNS: [&str; 2] = ["text", "text_pair"];

pub(super) async fn embeddings(server: &Server, mut given: Given, turn: Turn) -> Result<Response, Refusal> {
    let model = given.model()?;
    let input = given.need("input")?;
    let form = given.text("encoding_format")?.unwrap_or_else(|| "float".to_owned());
    if !["float", "base64"].contains(&form.as_str()) {
        return Err(wrong("encoding_format", "\"float\" or \"base64\"", &form.into()));
    }
    given.finish()?;
    server.expect(Kind::Vectors)?;
    let texts = match &input {
        Value::String(_) => vec![input.clone()],
        Value::Array(texts) => texts.clone(),
        _ => return Err(wrong("input", "a text or a list of texts", &input)),
    };
    let text = |text: &Value| match text {
        Value::String(text) if !text.trim().is_empty() => Ok(row("text", text)),
        _ => Err(wrong("input", "texts that are not empty", text)),
    };
    let rows = texts.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let answered = asked(server, &model, rows, Wanted::Vectors, turn).await?;
    let AnsweredRows::Vectors(vectors) = answered.rows else { return Err(Refusal::request("this model gives no vectors")) };
    let vector = |(index, vector): (usize, Vec<f32>)| {
        let embedding: Value = if form == "base64" {
            STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()).into()
        } else {
            vector.into()
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<Value> = vectors.into_iter().enumerate().map(vector).collect();
    let usage = json!({"prompt_tokens": answered.tokens, "total_tokens": answered.tokens});
    Ok(axum::Json(json!({"object": "list", "data": data, "model": model, "usage": usage})).into_response())
}

pub(super) async fn classify(server: &Server, mut given: Given, turn: Turn) -> Result<Response, Refusal> {
    let model = given.model()?;
    let input = given.need("input")?;
    given.finish()?;
    server.expect(Kind::Answers)?;
    let rows = match &input {
        Value::String(_) | Value::Object(_) => vec![classified(&input)?],
        Value::Array(rows) => rows.iter().map(classified).collect::<Result<_, _>>()?,
        _ => return Err(wrong("input", "a text, an object with text and text_pair, or a list of them", &input)),
    };
    let answered = asked(server, &model, rows, Wanted::Answers, turn).await?;
    let AnsweredRows::Answers(answers) = answered.rows else { return Err(Refusal::request("this model answers no rows")) };
    let names = &answered.class_names;
    let data: Vec<Value> = answers.into_iter().enumerate().map(|(index, answer)| described(index, answer, names)).collect();
    let usage = json!({"prompt_tokens": answered.tokens, "completion_tokens": 0, "total_tokens": answered.tokens});
    let (id, created) = named("classify");
    Ok(axum::Json(json!({"id": id, "object": "list", "created": created, "model": model, "data": data, "usage": usage})).into_response())
}

/// A row of text, or of text and text_pair.
fn classified(row_of: &Value) -> Result<Fields, Refusal> {
    match row_of {
        Value::String(text) => Ok(row("text", text)),
        Value::Object(fields) => {
            if let Some(name) = fields.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
                return Err(Refusal::param("input", format!("input: a row has {}, not {name:?}", COLUMNS.join(" and "))));
            }
            let column = |(name, value): (&String, &Value)| match value {
                Value::String(_) => Ok((name.clone(), value.as_str().unwrap_or_default().into())),
                _ => Err(wrong("input", "rows whose columns are texts", value)),
            };
            fields.iter().map(column).collect()
        }
        _ => Err(wrong("input", "texts, or objects with text and text_pair", row_of)),
    }
}

fn row(name: &str, text: &str) -> Fields {
    [(name.to_owned(), text.into())].into_iter().collect()
}

/// An answer with its class, and the probabilities in the order of the classes where there are some.
fn described(index: usize, mut answer: Fields, names: &[String]) -> Value {
    let mut told = Map::from_iter([("index".to_owned(), Value::from(index))]);
    if let Some(label) = answer.shift_remove("prediction") {
        told.insert("label".to_owned(), label);
    }
    if let Some(Value::Object(all)) = answer.get("probabilities") {
        let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
        let probs: Vec<Value> = (0..all.len()).map(|class| all.get(&name(class)).cloned().unwrap_or(Value::Null)).collect();
        told.insert("num_classes".to_owned(), all.len().into());
        told.insert("probs".to_owned(), probs.into());
    }
    told.extend(answer);
    Value::Object(told)
}

async fn asked(server: &Server, model: &str, rows: Vec<Fields>, wanted: Wanted, turn: Turn) -> Result<Answered, Refusal> {
    if rows.is_empty() || rows.len() > MOST_ROWS {
        return Err(Refusal::param("input", format!("input: expected 1 to {MOST_ROWS} rows, found {}", rows.len())));
    }
    let (reply, mut answers) = mpsc::unbounded_channel();
    server.send(Job::Answer(Answer { model: model.to_owned(), rows, wanted, ends: turn.ends, reply }))?;
    let limit = tokio::time::Instant::from_std(turn.ends);
    match tokio::time::timeout_at(limit, answers.recv()).await {
        Ok(Some(answered)) => answered,
        Ok(None) => Err(Refusal::status(axum::http::StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")),
        Err(_) => Err(Refusal::too_long()),
    }
}
