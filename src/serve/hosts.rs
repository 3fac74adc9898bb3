//! Sessions: the model that was given, and graphs for adapters that do not fit its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::refusal::Refusal;
use super::shelf::{Shelf, ShelvedAdapter};
use crate::adapter::config::Task;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::export::objective::LossRequest;
use crate::export::{AdapterSource, Bundle, Injection, stacked};
use crate::generate::Generator;
use crate::model::parts::Files;
use crate::model::{Beside, Model, declared};
use crate::onnx::Runnable;
use crate::ort::{Device, DeviceTensor, HostTensor, Runtime};
use crate::peft::AdapterFiles;
use crate::predict::{Opened, Predictor, Shape};
use crate::train::plan::LossPlan;
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
    /// Rows of vectors and classes, and texts, that are computed in one run at most; as many as is usual where none is named.
    pub batch_size: Option<std::num::NonZeroUsize>,
    /// How long the first request waits for others, where nothing is being computed.
    pub wait: std::time::Duration,
    /// Where the tokenizer is, if it is not beside the model.
    pub tokenizer: Option<PathBuf>,
}

/// A session, and what it computes.
pub(super) struct Host {
    /// The bundle whose graph it is; none of a plain model.
    bundle: Option<Bundle>,
    pub mind: Mind,
    /// The adapters that rows of one batch can have, where its graph is made for that.
    pub shelf: Option<Shelf>,
}

/// What computes.
pub(super) enum Mind {
    Writer(Box<Generator>),
    Answerer(Box<Predictor>),
    /// Nothing any more: another session has taken over.
    Closed,
}

/// An adapter's numbers as a host takes them.
pub(super) enum Values {
    /// The host's own.
    Own,
    /// For the optional inputs of its graph.
    Inputs(Vec<(String, DeviceTensor)>),
    /// The trainable vector, and the names of the classes.
    Vector(Vec<f32>, Vec<String>),
    /// On the host's shelf.
    Shelved(Arc<ShelvedAdapter>),
}

impl Values {
    pub(super) fn adapter(&self) -> Option<&Arc<ShelvedAdapter>> {
        if let Self::Shelved(adapter) = self { Some(adapter) } else { None }
    }
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
    /// What is minimised in training, which says how vectors are made.
    loss: LossPlan,
    /// The names of the classes of the model that was given.
    pub class_names: Vec<String>,
    /// Whether words are asked for in place of classes.
    has_hard_prompt: bool,
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

/// What was given, opened.
fn opened(offer: &Offer, tokenizer: Option<&Path>) -> Result<Opened> {
    // A request must not take longer than the model was made for, whatever it says.
    let most =
        |model: &Path, taken: usize| Ok::<_, Error>(declared::positions(&Beside::near(model))?.map(|most| most.saturating_sub(taken)));
    match offer {
        Offer::Bundle(bundle) => {
            let most = most(bundle.model(), bundle.manifest().virtual_tokens)?;
            Opened::of_bundle((**bundle).clone(), Source::of(bundle, tokenizer)?.within(most))
        }
        Offer::Model(path, task) => Opened::of_model(
            &Files::one(path),
            |_| Ok(*task),
            &LossRequest::default(),
            |model, task| Ok(Source::of_model(model, task, tokenizer)?.within(most(path, 0)?)),
        ),
    }
}

/// The model that was given, opened: what all hosts share, the first host, and what texts are read with.
///
/// # Errors
/// A model that cannot be opened, has no tokenizer, or is for a task that is not served.
pub(super) fn first(offer: &Offer, running: Running) -> Result<(Common, Host, Arc<Tokenizer>)> {
    let opened = opened(offer, running.tokenizer.as_deref())?;
    let kind = kind(&opened.source)?;
    let tokenizer = opened
        .source
        .tokenizer()
        .ok_or_else(|| Error::not_found("tokenizer", "tokenizer.json").with_hint("name one with `tokenizer FILE`"))?;
    let common = Common {
        kind,
        task: opened.source.task(),
        stop: opened.stop.clone(),
        positions: opened.source.positions(),
        loss: opened.loss.clone(),
        class_names: opened.class_names.clone(),
        has_hard_prompt: opened.source.hard_prompt().is_some(),
        running,
    };
    let bundle = if let Offer::Bundle(bundle) = offer { Some((**bundle).clone()) } else { None };
    let mind = common.mind(opened)?;
    Ok((common, Host { bundle, mind, shelf: None }, tokenizer))
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
        let model = base(offer)?;
        let asked = Injection { adapter: AdapterSource::Memory(files), task: Some(self.task), ..Injection::default() };
        let bundle = Bundle::of(&model, &asked)?;
        let tokenizer = match &self.running.tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => crate::training::tokenizer_near(&places(offer))?,
        };
        let opened = Opened::of_bundle(bundle.clone(), Source::with_tokenizer(&bundle, tokenizer)?)?;
        Ok(Host { mind: self.mind(opened)?, bundle: Some(bundle), shelf: None })
    }

    /// Whether adapters can have rows of one batch.
    pub(super) fn may_stack(&self) -> bool {
        !self.has_hard_prompt && self.running.batch_size.is_none_or(|size| size.get() > 1)
    }

    /// A host whose rows have adapters of a shelf.
    ///
    /// # Errors
    /// A model whose graph cannot have them.
    pub(super) fn stacked(&self, offer: &Offer, model: Model, shelf: Shelf) -> Result<Host> {
        let is_text = self.kind == Kind::Text;
        let loss = (!is_text).then_some(&self.loss);
        let asked = stacked::Asked { task: self.task, new_head: shelf.new_head(), loss };
        let path = model.name().to_path_buf();
        let graph = Arc::new(stacked::graph(model, shelf.sites(), &asked)?);
        let shelf = shelf.for_graph(&graph);
        let opened = opened(offer, self.running.tokenizer.as_deref())?;
        let whole = {
            let (graph, path) = (Arc::clone(&graph), path.clone());
            move || Ok((Runnable::of(&graph, &path)?, String::new()))
        };
        let read = move || Ok((Runnable::of(&graph, &path)?, None));
        let mind = self.mind(Opened { whole: Box::new(whole), graph: Box::new(read), ..opened })?;
        Ok(Host { bundle: None, mind, shelf: Some(shelf) })
    }
}

/// The model without an adapter.
///
/// # Errors
/// As [`Model::open`].
pub(super) fn base(offer: &Offer) -> Result<Model> {
    match offer {
        Offer::Bundle(bundle) => bundle.base(),
        Offer::Model(path, _) => Model::open(path),
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
            Mind::Answerer(_) | Mind::Closed => Err(Error::unsupported("another adapter in this graph", "it has its own as a constant")),
        }
    }

    /// Tries whether rows with and without an adapter are in one batch what each is alone. Texts that are written are tried when they first meet.
    ///
    /// # Errors
    /// Rows that are not: a model whose activations are quantised together, or that mixes rows.
    pub(super) fn check_rows(&mut self, adapter: &Arc<ShelvedAdapter>) -> Result<()> {
        let (Mind::Answerer(predictor), Some(shelf)) = (&mut self.mind, &mut self.shelf) else { return Ok(()) };
        let row = |text: &str| [("text".to_owned(), text.into()), ("text_pair".to_owned(), "b".into())];
        let asked = |text: &str, columns: usize| predictor.source().ask_row(row(text).into_iter().take(columns).collect());
        let rows = ["a b c d e", "a"].map(|text| asked(text, 1).or_else(|_| asked(text, 2)));
        let [Ok(one), Ok(other)] = rows else { return Ok(()) };
        let numbers = shelf.numbers(&[None, Some(adapter)])?;
        let together = predictor.given(&[one.clone(), other.clone()], shelf.worn(&numbers))?;
        for (at, row) in [one, other].into_iter().enumerate() {
            let alone = predictor.given(&[row], shelf.worn(&numbers[at..=at]))?;
            let same = together.get(at).zip(alone.first()).is_some_and(|(together, alone)| together.is_near(alone));
            if !same {
                return Err(Error::unsupported("rows with different adapters in one batch", "each is another one there than alone"));
            }
        }
        Ok(())
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
