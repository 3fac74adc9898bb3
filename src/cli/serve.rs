//! `peft-onnx serve`

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::signals::{self, First};
use super::{Global, Which, output};
use crate::adapter::config::Task;
use crate::error::{Context, Error, Result};
use crate::ort::Device;
use crate::serve::{self, Engine, Kind, Limits, Offer, Running};

/// The variable with the key that requests must name.
const API_KEY: &str = "PEFT_ONNX_API_KEY";

const AFTER_HELP: &str = "\
Language models answer /v1/chat/completions and /v1/completions (with stream, stop, seed, temperature, top_p, max_tokens), models for embeddings
/v1/embeddings, classifiers and rerankers /classify; /v1/models lists what a request's `model` may name. A parameter that is not honoured is refused by its
name. Each folder in --adapters is an adapter (PEFT's files, or a bundle); it may come, change and go while the server runs. Requests for different
adapters are computed in one batch where the adapters are updates of low rank (LoRA of any rank, rsLoRA, DoRA, AdaLoRA, VeRA, and heads beside
them); others get a session of their own. Ctrl-C ends what has begun, then the server.

Examples:
  peft-onnx serve model.lora
  peft-onnx serve model.onnx --adapters adapters/ --port 8080
  peft-onnx serve tuned/ --host 0.0.0.0 --api-key \"$KEY\"
  curl http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \\
       -d '{\"model\": \"model.lora\", \"prompt\": \"Once upon a time\", \"max_tokens\": 50}'";

/// Options of `serve`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// An ONNX model, or a bundle
    #[arg(value_name = "MODEL|BUNDLE")]
    pub model: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
    /// A folder of adapters; requests name them as their subfolders are called
    #[arg(long, value_name = "FOLDER")]
    pub adapters: Option<PathBuf>,
    /// The name by which requests ask for the model itself [default: that of its file or folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// tokenizer.json, or its folder [default: beside the model]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// What a plain model is for, where it does not say so itself
    #[arg(long, value_name = "TASK", value_parser = super::task::parse)]
    pub task: Option<Task>,
    /// The address to listen on; 127.0.0.1 is for this machine alone
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), help_heading = "Network")]
    pub host: IpAddr,
    /// The port to listen on; 0 takes one that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000, help_heading = "Network")]
    pub port: u16,
    /// The key that requests must send as `Authorization: Bearer KEY` [default: the variable PEFT_ONNX_API_KEY; without one, everybody who reaches the port]
    #[arg(long, value_name = "KEY", help_heading = "Network")]
    pub api_key: Option<String>,
    /// Most tokens that a request may have written; as many as a conversation's answer has if it does not say
    #[arg(long, value_name = "TOKENS", default_value = "1024", help_heading = "Limits")]
    pub max_tokens: NonZeroUsize,
    /// Requests that are answered at a time; more are refused
    #[arg(long, value_name = "COUNT", default_value = "64", help_heading = "Limits")]
    pub max_requests: NonZeroUsize,
    /// Largest request, in KiB
    #[arg(long, value_name = "KIB", default_value = "4096", help_heading = "Limits")]
    pub max_body: NonZeroUsize,
    /// Longest time that a request may take, with its wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Most texts, or rows of vectors and classes, that are computed in one run, whichever adapters they ask for; with 1, each is alone [default: 16 texts, 8 rows]
    #[arg(long, value_name = "ROWS", alias = "batch-size", help_heading = "Computing")]
    pub max_batch_size: Option<NonZeroUsize>,
    /// How long a request waits for others to be computed with, where nothing is being computed, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2, help_heading = "Computing", value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub batch_wait: u64,
    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    pub device: Device,
    /// Number of threads [default: as many as this process may use]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
}

/// Answers requests until a signal comes.
///
/// # Errors
/// A model that cannot be served; an address that cannot be listened on.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some(folder) = args.adapters.as_deref().filter(|folder| !folder.is_dir()) {
        return Err(Error::invalid("no folder of adapters is there").in_file(folder).with_hint("each of its subfolders is an adapter"));
    }
    let address = (args.host, args.port);
    let taken = || format!("{}:{}", args.host, args.port);
    let listener = TcpListener::bind(address).in_file(taken()).hint("another program may listen there: --port 0 takes a free port")?;
    let offer = if args.model.is_dir() {
        if args.task.is_some() {
            let error = Error::invalid("--task with a bundle, which knows it").in_file(&args.model);
            return Err(error.with_hint("leave it out, or inject another bundle with it"));
        }
        Offer::Bundle(Box::new(args.which.open(&args.model, args.base.as_deref())?))
    } else {
        Offer::Model(args.model.clone(), args.task)
    };
    let running = Running {
        runtime: global.runtime(args.threads)?,
        device: args.device,
        batch_size: args.max_batch_size,
        wait: Duration::from_millis(args.batch_wait),
        tokenizer: args.tokenizer.clone(),
    };
    let name = args.name.clone().unwrap_or_else(|| name_of(&args.model));
    let engine = Engine::open(offer, name, args.adapters.clone(), running)?;
    let key = args.api_key.clone().or_else(|| std::env::var(API_KEY).ok()).filter(|key| !key.is_empty());
    if key.is_none() && !args.host.is_loopback() {
        tracing::warn!("everybody who reaches {} can ask: --api-key KEY keeps others out", args.host);
    }
    let limits = Limits {
        max_tokens: args.max_tokens.get(),
        body: args.max_body.get().saturating_mul(1024),
        requests: args.max_requests.get().min(tokio::sync::Semaphore::MAX_PERMITS),
        timeout: Duration::from_secs(args.timeout),
        api_key: key,
    };
    let stop = signals::listen(First::Asks("what has begun is answered"));
    told(&engine, &listener, global)?;
    serve::run(engine, listener, limits, stop)
}

fn told(engine: &Engine, listener: &TcpListener, global: &Global) -> Result<()> {
    let address = format!("http://{}", listener.local_addr()?);
    let names = engine.names();
    if global.json {
        return output::print_json(&json!({"address": address, "models": names}));
    }
    if global.quiet {
        return Ok(());
    }
    let path = match engine.kind() {
        Kind::Text => "/v1/chat/completions",
        Kind::Vectors => "/v1/embeddings",
        Kind::Answers => "/classify",
    };
    output::print(&format!("serving {} at {address}{path}", names.join(", ")))
}

/// What a model's file or a bundle's folder is called; of a file that is called as all are, its folder.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let text = |name: Option<&OsStr>| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // What stands behind a dot is an ending of files alone: folders are called Qwen2.5-0.5B.
    let own = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    let folders = whole.ancestors().skip(1).take(2).map(|folder| text(folder.file_name()));
    let usual = ["model", "onnx", "model_merged", "decoder_model_merged", "decoder_model"];
    std::iter::once(text(own))
        .chain(folders)
        .find(|name| !usual.contains(&name.as_str()) && !name.is_empty())
        .unwrap_or_else(|| "model".to_owned())
}
