//! What a request meets first: who may ask, how many and how large, and which models there are.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fields::Given;
use super::job::Job;
use super::refusal::Refusal;
use super::{Face, Kind, adapters};

/// What every request is answered with.
#[derive(Clone)]
pub(super) struct Server {
    pub face: Arc<Face>,
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    /// Whether only this machine can ask.
    is_local: bool,
}

/// A request that has a place among those that are answered at a time, and when its time is over.
pub(super) struct Turn {
    pub ends: Instant,
    /// Given back when the answer is.
    _place: OwnedSemaphorePermit,
}

impl Server {
    pub(super) fn new(face: Face, jobs: Sender<Job>, is_local: bool) -> Self {
        let places = Arc::new(Semaphore::new(face.limits.requests));
        Self { face: Arc::new(face), jobs, places, is_local }
    }

    /// Whether a request comes from where it may, from who may ask.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        // A page of another site can have its own name lead to this machine.
        if self.is_local && !text(HOST).is_none_or(is_this_machine) {
            return Err(Refusal::status(
                StatusCode::FORBIDDEN,
                "the server listens for this machine alone, and was asked under another name",
            ));
        }
        let Some(key) = &self.face.limits.api_key else { return Ok(()) };
        let given = text(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        // The time that a comparison of hashes takes tells nothing of the key.
        match given {
            Some(given) if Sha256::digest(given.trim()) == Sha256::digest(key) => Ok(()),
            Some(_) => Err(Refusal::status(StatusCode::UNAUTHORIZED, "the API key is not the server's").with_code("invalid_api_key")),
            None => {
                Err(Refusal::status(StatusCode::UNAUTHORIZED, "no API key: send `Authorization: Bearer KEY`").with_code("invalid_api_key"))
            }
        }
    }

    /// A request's parameters and its turn, if there is room for it.
    pub(super) fn admit(&self, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<(Given, Turn), Refusal> {
        let form = headers.get(CONTENT_TYPE).and_then(|form| form.to_str().ok()).unwrap_or_default();
        // Pages of other sites can send texts to this machine, but no JSON.
        if !form.split(';').next().is_some_and(|form| form.trim().eq_ignore_ascii_case("application/json")) {
            let message = format!("content-type: expected application/json, found {form:?}");
            return Err(Refusal::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {} bytes", self.face.limits.body))
            }
            status => Refusal::status(status, rejection.body_text()),
        })?;
        let given = Given::of(&body)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!("{} requests are answered at a time; try again later", self.face.limits.requests);
            Refusal::status(StatusCode::TOO_MANY_REQUESTS, message).with_code("rate_limit_exceeded")
        })?;
        Ok((given, Turn { ends: Instant::now() + self.face.limits.timeout, _place: place }))
    }

    /// Hands work to the engine.
    pub(super) fn send(&self, job: Job) -> Result<(), Refusal> {
        self.jobs.send(job).map_err(|_| Refusal::status(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"))
    }

    /// Refuses a request that the model is not for.
    pub(super) fn expect(&self, kind: Kind) -> Result<(), Refusal> {
        let path = |kind| match kind {
            Kind::Text => "/v1/chat/completions and /v1/completions",
            Kind::Vectors => "/v1/embeddings",
            Kind::Answers => "/classify",
        };
        if self.face.kind == kind {
            return Ok(());
        }
        let message = format!("the models here do not answer this; they answer {}", path(self.face.kind));
        Err(Refusal::request(message).with_code("unsupported_endpoint"))
    }

    /// The names of all models.
    pub(super) fn names(&self) -> Vec<String> {
        let adapters = self.face.adapters.as_deref().map(adapters::list).unwrap_or_default();
        self.face.names.iter().cloned().chain(adapters.into_keys()).collect()
    }

    pub(super) fn described(&self, name: &str) -> Value {
        let parent = self.face.names.first().filter(|first| *first != name);
        json!({"id": name, "object": "model", "created": self.face.created, "owned_by": "peft-onnx", "parent": parent})
    }
}

/// Whether a name with its port stands for this machine.
fn is_this_machine(host: &str) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') { rest.split(']').next() } else { host.split(':').next() };
    name.is_some_and(|name| {
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// A new name of an answer, and the time in seconds since 1970.
pub(super) fn named(kind: &str) -> (String, u64) {
    let id = format!("{kind}-{:016x}{:016x}", RandomState::new().build_hasher().finish(), RandomState::new().build_hasher().finish());
    (id, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}
