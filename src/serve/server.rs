//! What a request meets first: who may ask, how many and how large, and which models there are.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fields::Given;
use super::job::Job;
use super::refusal::Refusal;
use super::{Face, Kind, adapters};

/// So many bodies of the largest size are held at a time.
const BODIES: usize = 16;
/// The unit in which room for bodies is given.
const KIB: usize = 1024;
/// How long a request may take to send its body. Whoever is slower takes room from others.
const SENDING: Duration = Duration::from_secs(30);

/// What every request is answered with.
#[derive(Clone)]
pub(super) struct Server {
    pub face: Arc<Face>,
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    /// Room for what requests send, in KiB.
    room: Arc<Semaphore>,
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
        let room = Arc::new(Semaphore::new(units(face.limits.body.max(1)).saturating_mul(BODIES).min(Semaphore::MAX_PERMITS)));
        Self { face: Arc::new(face), jobs, places, room, is_local }
    }

    /// What a request sends, with the room that it takes until it is answered: by what it says of its length, else as much as it may have.
    ///
    /// # Errors
    /// More than a request may send; no room, since others send; a sender that is too slow.
    pub(super) async fn read(&self, body: Body) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let most = self.face.limits.body;
        let too_large = || Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {most} bytes"));
        let length = body.size_hint().upper().map_or(most, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if length > most {
            return Err(too_large());
        }
        let wanted = u32::try_from(units(length)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(wanted).map_err(|_| {
            let message = format!("other requests send as much as is held at a time ({BODIES} of the largest size); try again later");
            Refusal::status(StatusCode::TOO_MANY_REQUESTS, message).with_code("rate_limit_exceeded")
        })?;
        let sent = tokio::time::timeout(SENDING, to_bytes(body, most)).await;
        let slow = |_| Refusal::status(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", SENDING.as_secs()));
        // What comes too short is an error of the connection, and nobody reads the answer.
        Ok((sent.map_err(slow)?.map_err(|_| too_large())?, room))
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
    pub(super) fn admit(&self, headers: &HeaderMap, body: &Bytes) -> Result<(Given, Turn), Refusal> {
        let form = headers.get(CONTENT_TYPE).and_then(|form| form.to_str().ok()).unwrap_or_default();
        // Pages of other sites can send texts to this machine, but no JSON.
        if !form.split(';').next().is_some_and(|form| form.trim().eq_ignore_ascii_case("application/json")) {
            let message = format!("content-type: expected application/json, found {form:?}");
            return Err(Refusal::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let given = Given::of(body)?;
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

/// The KiB that so many bytes take of the room for bodies.
fn units(bytes: usize) -> usize {
    bytes.div_ceil(KIB)
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
