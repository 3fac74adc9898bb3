//! The graphs of a bundle, opened to be trained, and how they are fed.

use crate::anatomy::{Reads, Task};
use crate::contract::{GraphName, Input, Output};
use crate::data::Batch;
use crate::decompose::for_cuda;
use crate::error::{Error, Result};
use crate::export::Bundle;
use crate::ir::Graph;
use crate::ort::{Device, ElementType, Feed, HostTensor, Port, Purpose, Runtime, Session, Settings, State};
use crate::train::precision::{Precision, lowered, scaled};

/// The parts of the training state, by the names of the graphs' inputs, each float32: `[N]`, and where ranks are allocated `[ranks]`.
const STATES: [State<'static>; 6] = [
    State { input: Input::Trainable.name(), output: Output::TrainableNext.name() },
    State { input: Input::AdamM.name(), output: Output::AdamMNext.name() },
    State { input: Input::AdamV.name(), output: Output::AdamVNext.name() },
    State { input: Input::Sensitivity.name(), output: Output::SensitivityNext.name() },
    State { input: Input::Uncertainty.name(), output: Output::UncertaintyNext.name() },
    State { input: Input::MaskedRanks.name(), output: Output::MaskedRanksNext.name() },
];

/// The parts of the state that a graph of updates has. The first three every one has; where ranks are not allocated, there are no others.
pub(super) fn states(session: &Session) -> Vec<State<'static>> {
    let [trainable, m, v, others @ ..] = STATES;
    let others = others.into_iter().filter(|state| session.input(state.input).is_some());
    [trainable, m, v].into_iter().chain(others).collect()
}

/// The optional input that seeds the dropout masks.
pub(super) const DROPOUT_SEED: &str = Input::DropoutSeed.name();

pub(super) const GRADIENT: State<'static> = State { input: Input::Gradient.name(), output: Output::GradientNext.name() };

/// Where graphs of training are computed, and in what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computing {
    /// Where.
    pub device: Device,
    /// In what.
    pub precision: Precision,
    /// Whether products have copies of their weights in the order in which they read them ([`Settings::packs_weights`]).
    pub packs_weights: bool,
}

impl From<Device> for Computing {
    fn from(device: Device) -> Self {
        Self { device, ..Self::default() }
    }
}

/// The graph of a bundle for a purpose, opened to be trained or to be run beside it.
///
/// # Errors
/// If the bundle does not have it or ONNX Runtime refuses it; a precision that the device does not have.
pub fn open(runtime: &Runtime, bundle: &Bundle, purpose: impl AsRef<str>, computing: impl Into<Computing>) -> Result<Session> {
    let (purpose, computing) = (purpose.as_ref(), computing.into());
    let settings = settings(purpose, computing)?;
    let rewritten = rewritten(bundle, purpose, computing)?;
    let runnable = rewritten.map_or_else(|| bundle.runnable(purpose), |graph| bundle.runnable_as(purpose, &graph))?;
    Session::open(runtime, runnable, &settings)
}

/// The loss of the vectors of a whole batch, of a bundle whose loss compares them; none of others.
///
/// # Errors
/// As [`open`].
pub fn open_loss_of_all(runtime: &Runtime, bundle: &Bundle, computing: impl Into<Computing>) -> Result<Option<Session>> {
    let manifest = bundle.manifest();
    let compares_vectors = Task::from_name(&manifest.task).is_some_and(|task| task.row().reads == Reads::Embeddings);
    let is_there = compares_vectors && manifest.graphs.contains_key(GraphName::Loss.name());
    is_there.then(|| open(runtime, bundle, GraphName::Loss, computing)).transpose()
}

/// The graph of updates of a bundle as another one has it, opened as the bundle's own would be.
///
/// # Errors
/// As [`open`].
pub(super) fn open_update_as(runtime: &Runtime, bundle: &Bundle, graph: &Graph, computing: Computing) -> Result<Session> {
    let purpose = GraphName::Update.name();
    let settings = settings(purpose, computing)?;
    let rewritten = if computing.device == Device::Cpu { None } else { for_cuda(graph)? };
    Session::open(runtime, bundle.runnable_as(purpose, rewritten.as_ref().unwrap_or(graph))?, &settings)
}

/// How a graph for a purpose is opened.
fn settings(purpose: &str, computing: Computing) -> Result<Settings> {
    let Computing { device, precision, packs_weights } = computing;
    if precision == Precision::Tf32 && device == Device::Cpu {
        let error = Error::unsupported("`precision tf32` on the processor", "only GPUs round what products read");
        return Err(error.with_hint("leave it out: the processor computes in float32"));
    }
    if packs_weights && device != Device::Cpu {
        let error = Error::unsupported("`prepack_weights` on a GPU", "only products on the processor read weights that are packed");
        return Err(error.with_hint("leave it out"));
    }
    let makes_gradient = [GraphName::Training, GraphName::Gradient, GraphName::Vjp].iter().any(|name| name.name() == purpose);
    Ok(Settings {
        device,
        purpose: Purpose::Training,
        tf32: precision == Precision::Tf32,
        keeps_casts: precision.half().is_some(),
        packs_weights: packs_weights && makes_gradient,
        may_differ: purpose == GraphName::Evaluation.name(),
        ..Settings::default()
    })
}

/// A graph as a device and a precision have it; nothing where that is as it is written.
fn rewritten(bundle: &Bundle, purpose: &str, Computing { device, precision, .. }: Computing) -> Result<Option<Graph>> {
    let mut graph = None;
    if device != Device::Cpu {
        graph = for_cuda(&bundle.graph(purpose)?)?;
    }
    let computes_state = [GraphName::Update, GraphName::Loss].iter().any(|name| name.name() == purpose);
    let Some(half) = precision.half().filter(|_| !computes_state) else { return Ok(graph) };
    let whole = graph.map_or_else(|| bundle.graph(purpose), Ok)?;
    let lowered = lowered(&whole, half)?;
    let makes_gradient = [GraphName::Gradient, GraphName::Vjp].iter().any(|name| name.name() == purpose);
    if makes_gradient && precision.scales_loss() { scaled(&lowered).map(Some) } else { Ok(Some(lowered)) }
}

/// A batch with the inputs that are always fed, and those of the others that the graph has.
pub(super) fn with_optional<'a>(session: &Session, batch: &'a Batch, always: &[Feed<'a>], optional: &[Feed<'a>]) -> Vec<Feed<'a>> {
    let mut feeds = batch.feeds();
    feeds.extend_from_slice(always);
    feeds.extend(optional.iter().filter(|feed| session.input(feed.name()).is_some()));
    feeds
}

/// A number as a tensor without axes, of the type that an input asks for.
pub(super) fn number(port: &Port, value: f64) -> Result<HostTensor> {
    match port.element_type {
        Some(ElementType::Float32) => Ok(HostTensor::scalar(narrow(value))),
        Some(ElementType::Float64) => Ok(HostTensor::scalar(value)),
        other => {
            let found = other.map_or_else(|| "another".to_owned(), |other| other.to_string());
            Err(Error::mismatch(format!("element type of {}", port.name), "float32 or float64", found))
        }
    }
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "numbers are rounded once, where they become tensors")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
