//! A model over HTTP, in the words of OpenAI's API: conversations and texts, vectors, classes; and many adapters on one base.
//!
//! ```text
//! request ─http→ fields ─job→ engine: catalog (names) → hosts (sessions) × shelf (adapters' tensors) ─pieces→ answer, whole or as events
//! ```
//! The engine runs on the thread that called [`run`], one run of a graph at a time: ONNX Runtime computes each on all threads. Texts that are written at the
//! same time are rows of one run, as are rows that are asked for while others are computed; each row has the adapter that its request names. What a
//! request asks for and is not honoured is refused by its name.

mod adapters;
mod bands;
mod catalog;
mod engine;
mod fields;
mod hosts;
mod http;
mod job;
mod refusal;
mod rows;
mod server;
mod shelf;
mod stops;
mod writing;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub use engine::Engine;
pub use hosts::{Kind, Offer, Running};

use crate::data::Tokenizer;
use crate::error::{Error, Result};

/// What requests may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens that a request may have written, at most.
    pub max_tokens: usize,
    /// Bytes of a request, at most.
    pub body: usize,
    /// Requests at a time; more are refused.
    pub requests: usize,
    /// How long a request may take, with its wait.
    pub timeout: Duration,
    /// What a request must name itself with, as `Authorization: Bearer KEY`.
    pub api_key: Option<String>,
}

/// What those who answer requests know of the models.
struct Face {
    kind: Kind,
    /// The name of the model that was given, then those that always stand beside it.
    names: Vec<String>,
    /// The folder of adapters, which come and go.
    adapters: Option<PathBuf>,
    tokenizer: Arc<Tokenizer>,
    /// Tokens of a text, at most: of a longer prompt no more is taken apart than shows that it is longer.
    longest: usize,
    /// Seconds since 1970 when the models were opened.
    created: u64,
    limits: Limits,
}

/// Tokens of a prompt, at most, where the model does not tell.
const LONGEST: usize = 1 << 17;

/// Answers requests until `stop` is set, then those that have begun.
///
/// # Errors
/// A thread or a listener that the system refuses.
pub fn run(mut engine: Engine, listener: TcpListener, limits: Limits, stop: &'static AtomicBool) -> Result<()> {
    let (jobs, waiting) = mpsc::channel();
    let face = Face {
        kind: engine.kind(),
        names: engine.names(),
        adapters: engine.adapters().map(PathBuf::from),
        tokenizer: engine.tokenizer(),
        longest: engine.longest().unwrap_or(LONGEST),
        created: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        limits,
    };
    listener.set_nonblocking(true)?;
    let served = std::thread::Builder::new().name("http".to_owned()).spawn(move || http::serve(face, jobs, listener, stop))?;
    // Without requesters there is nothing to do: the channel ends when the other thread does.
    engine.work(&waiting);
    served.join().map_err(|_| Error::invalid("the thread that answers requests broke off"))?
}
