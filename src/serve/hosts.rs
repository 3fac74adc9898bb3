//! Sessions: the model that was given, and graphs for adapters that do not fit its own.

use std::path::PathBuf;
use std::sync::Arc;

use super::refusal::Refusal;
use crate::adapter::config::Task;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::export::objective::LossRequest;
use crate::export::{AdapterSource, Bundle, Injection};
use crate::generate::Generator;
use crate::model::Model;
use crate::ort::{Device, DeviceTensor, HostTensor, Runtime};
use crate::peft::AdapterFiles;
use crate::predict::{Opened, Predictor, Shape};
use crate::training::Source;

/// What a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes on with texts and conversations.
    Text,
    /// It gives vectors of texts.
    Vectors,
    /// It answers rows: classes, labels, numbers, entities.
    Answers,
}

/// What is served.
pub enum Offer {
    /// A bundle with its adapter.
    Bundle(Box<Bundle>),
    /// A plain model, for a task where one is named.
    Model(PathBuf, Option<Task>),
}

/// How it is run.
pub struct Running {
    /// The ONNX Runtime.
    pub runtime: &'static Runtime,
    /// The device.
    pub device: Device,
    /// Rows at a time.
    pub batch_size: Option<std::num::NonZeroUsize>,
    /// Where the tokenizer is, if it is not beside the model.
    pub tokenizer: Option<PathBuf>,
}

/// A session, and what it computes.
pub(super) struct Host {
    /// The bundle whose graph it is; none of a plain model.
    bundle: Option<Bundle>,
    pub mind: Mind,
}

/// What computes.
pub(super) enum Mind {
    Writer(Box<Generator>),
    Answerer(Box<Predictor>),
}

/// An adapter's numbers as a host takes them.
pub(super) enum Values {
    /// The host's own.
    Own,
    /// For the optional inputs of its graph.
    Inputs(Vec<(String, DeviceTensor)>),
    /// The trainable vector, and the names of the classes.
    Vector(Vec<f32>, Vec<String>),
}

/// What all hosts of a model have in common.
pub(super) struct Common {
    pub running: Running,
    pub kind: Kind,
    pub task: Task,
    /// Tokens that end a text.
    pub stop: Vec<i32>,
    /// The most tokens of a text.
    pub positions: Option<usize>,
}

/// What a task is served as.
///
/// # Errors
/// A task whose answers have no form in this API.
pub(super) fn kind(source: &Source) -> Result<Kind> {
    match source.task() {
        _ if source.hard_prompt().is_some() => Ok(Kind::Answers),
        Task::CausalLm | Task::Preference => Ok(Kind::Text),
        Task::Embedding => Ok(Kind::Vectors),
        Task::SeqCls | Task::MultiLabel | Task::Regression | Task::Rerank | Task::TokenCls => Ok(Kind::Answers),
        task => Err(Error::unsupported(format!("serving {task}"), "its answers have no form in this API")
            .with_hint("`peft-onnx predict` and `peft-onnx generate` answer it; language models, embeddings and classifiers are served")),
    }
}

/// The model that was given, opened: what all hosts share, the first host, and what texts are read with.
///
/// # Errors
/// A model that cannot be opened, has no tokenizer, or is for a task that is not served.
pub(super) fn first(offer: &Offer, running: Running) -> Result<(Common, Host, Arc<Tokenizer>)> {
    let tokenizer = running.tokenizer.as_deref();
    let opened = match offer {
        Offer::Bundle(bundle) => Opened::of_bundle((**bundle).clone(), Source::of(bundle, tokenizer)?)?,
        Offer::Model(path, task) => {
            Opened::of_model(path, *task, &LossRequest::default(), |model, task| Source::of_model(model, task, tokenizer))?
        }
    };
    let kind = kind(&opened.source)?;
    let tokenizer = opened
        .source
        .tokenizer()
        .ok_or_else(|| Error::not_found("tokenizer", "tokenizer.json").with_hint("name one with `tokenizer FILE`"))?;
    let common = Common { kind, task: opened.source.task(), stop: opened.stop.clone(), positions: opened.source.positions(), running };
    let bundle = if let Offer::Bundle(bundle) = offer { Some((**bundle).clone()) } else { None };
    let mind = common.mind(opened)?;
    Ok((common, Host { bundle, mind }, tokenizer))
}

impl Common {
    fn mind(&self, opened: Opened) -> Result<Mind> {
        let Running { runtime, device, batch_size, .. } = self.running;
        if self.kind == Kind::Text {
            let ((graph, _), feeding) = ((opened.whole)()?, opened.source.collation().feeding);
            return Ok(Mind::Writer(Box::new(Generator::fed(runtime, graph, feeding, device)?)));
        }
        let shape = Shape { threshold: 0.5, top: usize::MAX, prefix: String::new() };
        let batch_size = opened.source.batch_size(batch_size).get();
        let running = crate::predict::Running { device, batch_size, new_tokens: 0 };
        Predictor::open(runtime, opened, shape, running).map(|predictor| Mind::Answerer(Box::new(predictor)))
    }

    /// A host with a graph of an adapter's own.
    ///
    /// # Errors
    /// An adapter that does not fit the model.
    pub(super) fn own(&self, offer: &Offer, files: AdapterFiles) -> Result<Host> {
        let model = match offer {
            Offer::Bundle(bundle) => bundle.base()?,
            Offer::Model(path, _) => Model::open(path)?,
        };
        let asked = Injection { adapter: AdapterSource::Memory(files), task: Some(self.task), ..Injection::default() };
        let bundle = Bundle::of(&model, &asked)?;
        let tokenizer = match &self.running.tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => crate::training::tokenizer_near(&places(offer))?,
        };
        let opened = Opened::of_bundle(bundle.clone(), Source::with_tokenizer(&bundle, tokenizer)?)?;
        Ok(Host { mind: self.mind(opened)?, bundle: Some(bundle) })
    }
}

/// Files near which a tokenizer may lie.
fn places(offer: &Offer) -> Vec<PathBuf> {
    match offer {
        Offer::Bundle(bundle) => bundle.places(),
        Offer::Model(path, _) => vec![path.clone()],
    }
}

impl Host {
    /// An adapter's numbers for this host.
    ///
    /// # Errors
    /// An adapter that has other tensors or constants than the host's graph.
    pub(super) fn values(&self, files: AdapterFiles, class_names: Option<Vec<String>>) -> Result<Values> {
        let bundle = self.bundle.as_ref().ok_or_else(|| Error::unsupported("an adapter in this graph", "it has no place for one"))?;
        let fitted = bundle.fitted(files)?;
        match &self.mind {
            Mind::Writer(_) => {
                let numbers = |name: &str, tensor: &crate::ir::Tensor| {
                    let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))?;
                    let shape: Vec<usize> = tensor.shape().to_vec();
                    Ok((name.to_owned(), DeviceTensor::of(&HostTensor::new(shape, values)?)?))
                };
                fitted.inputs()?.iter().map(|(name, tensor)| numbers(name, tensor)).collect::<Result<_>>().map(Values::Inputs)
            }
            Mind::Answerer(predictor) if predictor.can_change() => {
                let names = class_names.unwrap_or_else(|| bundle.manifest().class_names.clone());
                Ok(Values::Vector(fitted.trainable()?, names))
            }
            Mind::Answerer(_) => Err(Error::unsupported("another adapter in this graph", "it has its own as a constant")),
        }
    }

    /// The names of its own classes.
    pub(super) fn class_names(&self) -> Vec<String> {
        self.bundle.as_ref().map(|bundle| bundle.manifest().class_names.clone()).unwrap_or_default()
    }

    /// The trainable vector of its own adapter.
    pub(super) fn own_vector(&self) -> Result<Vec<f32>> {
        self.bundle.as_ref().map_or_else(|| Err(Error::not_found("adapter", "of this model")), Bundle::trainable)
    }
}

/// An adapter of the folder that cannot be used.
pub(super) fn refused(error: &Error, name: &str) -> Refusal {
    tracing::warn!("the adapter {name:?} cannot be used: {error}");
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Refusal::param("model", format!("the adapter {name:?} cannot be used: {}{hint}", error.kind()))
}
