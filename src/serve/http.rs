//! The requests, and where they go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::job::Job;
use super::refusal::Refusal;
use super::server::Server;
use super::{Face, rows, writing};
use crate::error::Result;

/// How often it is looked whether the server is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Answers requests until `stop` is set, then those that have begun.
pub(super) fn serve(face: Face, jobs: Sender<Job>, listener: std::net::TcpListener, stop: &'static AtomicBool) -> Result<()> {
    let is_local = listener.local_addr().is_ok_and(|address: SocketAddr| address.ip().is_loopback());
    let server = Server::new(face, jobs, is_local);
    let asks = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/classify", post(classify))
        .route("/classify", post(classify))
        .layer(middleware::from_fn_with_state(server.clone(), read))
        .layer(middleware::from_fn_with_state(server.clone(), allowed));
    let all = asks.route("/health", get(|| async { "ok" })).fallback(nowhere).method_not_allowed_fallback(not_so);
    let all = all.with_state(server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stopped = async move {
            while !stop.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK).await;
            }
        };
        Ok(axum::serve(listener, all).with_graceful_shutdown(stopped).await?)
    })
}

/// Who may ask.
async fn allowed(State(server): State<Server>, request: Request, next: Next) -> Response {
    match server.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Reads what a request sends, as far as there is room for it; the room is given back with the answer.
async fn read(State(server): State<Server>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match server.read(body).await {
        Ok((body, _room)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn models(State(server): State<Server>) -> Response {
    let data: Vec<Value> = server.names().iter().map(|name| server.described(name)).collect();
    axum::Json(json!({"object": "list", "data": data})).into_response()
}

async fn model(State(server): State<Server>, Path(name): Path<String>) -> Response {
    let names = server.names();
    if names.contains(&name) {
        axum::Json(server.described(&name)).into_response()
    } else {
        Refusal::no_model(&name, &names).into_response()
    }
}

async fn nowhere(request: Request) -> Response {
    Refusal::status(StatusCode::NOT_FOUND, format!("there is nothing at {}", request.uri().path())).into_response()
}

async fn not_so(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    Refusal::status(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

async fn chat(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    match server.admit(&headers, &body) {
        Ok((given, turn)) => answered(writing::chat(&server, given, turn).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn completions(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    match server.admit(&headers, &body) {
        Ok((given, turn)) => answered(writing::completions(&server, given, turn).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn embeddings(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    match server.admit(&headers, &body) {
        Ok((given, turn)) => answered(rows::embeddings(&server, given, turn).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn classify(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    match server.admit(&headers, &body) {
        Ok((given, turn)) => answered(rows::classify(&server, given, turn).await),
        Err(refusal) => refusal.into_response(),
    }
}

fn answered(outcome: Result<Response, Refusal>) -> Response {
    outcome.unwrap_or_else(IntoResponse::into_response)
}
