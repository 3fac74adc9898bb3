//! One graph, opened on a device.

use std::fmt;
use std::path::{Path, PathBuf};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, SessionOutputs};
use ort::value::ValueType;

use super::library::HINT;
use super::process::Facts;
use super::settings::SETTINGS;
use super::value::{DeviceTensor, Feed, element_type};
use super::{Runtime, Settings, cuda, lent, refused};
use crate::error::{Context, Error, ErrorKind, Place, Result};
use crate::onnx::{Lent, Runnable};
use crate::ort::{Device, ElementType, HostTensor};

/// The length of one axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Always this length.
    Known(usize),
    /// A length that differs from run to run, and its name; empty if it has none.
    Free(String),
}

/// Whether a run must be given an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must.
    Required,
    /// The graph has a value for it.
    Optional,
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its elements; none if [`HostTensor`] does not have it.
    pub element_type: Option<ElementType>,
    /// The length of every axis.
    pub shape: Vec<Axis>,
    /// Whether a run must be given it; outputs are [`Presence::Required`].
    pub presence: Presence,
}

impl Port {
    fn new(name: &str, value_type: &ValueType, presence: Presence) -> Self {
        let (element_type, shape) = match value_type {
            ValueType::Tensor { ty, shape, dimension_symbols } => {
                let axes = shape.iter().zip(dimension_symbols.iter());
                let axes = axes.map(|(axis, symbol)| usize::try_from(*axis).map_or_else(|_| Axis::Free(symbol.clone()), Axis::Known));
                (element_type(*ty), axes.collect())
            }
            _ => (None, vec![]),
        };
        Self { name: name.to_owned(), element_type, shape, presence }
    }

    /// The shape, if every axis has a known length.
    #[must_use]
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|axis| if let Axis::Known(length) = axis { Some(*length) } else { None }).collect()
    }

    fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(axis, length)| !matches!(axis, Axis::Known(known) if known != length))
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(length) => write!(f, "{length}"),
            Self::Free(name) if name.is_empty() => f.write_str("?"),
            Self::Free(name) => f.write_str(name),
        }
    }
}

/// The entry of a run's configuration that names the devices whose arenas give back what is free.
const GIVES_BACK: &str = "memory.enable_memory_arena_shrinkage";

/// One graph, opened on a device.
pub struct Session {
    pub(super) inner: ort::session::Session,
    /// What `inner` reads weights from: it must go first.
    _lent: Vec<Lent>,
    path: PathBuf,
    device: Device,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    growth: cuda::Growth,
}

impl Session {
    /// Opens a model. Its weights are mapped into memory, not read.
    ///
    /// # Errors
    /// [`Runtime`](ErrorKind::Runtime) with the file if ONNX Runtime refuses the graph or the device; there is no fall-back to another device.
    pub fn open(runtime: &Runtime, model: impl Into<Runnable>, settings: &Settings) -> Result<Self> {
        let Runnable { path, message, lent, root } = model.into();
        if let Device::Cuda(_) = settings.device {
            cuda::prepare(runtime.facts())?;
        }
        let mut builder = ort::session::Session::builder(&runtime.environment).map_err(refused)?;
        for setting in SETTINGS {
            builder = (setting.apply)(builder, settings).map_err(|error| at_opening(refused(error), settings.device, runtime.facts()))?;
        }
        builder = lent::lend(builder, &lent).in_file(&path)?;
        if let Some(root) = root {
            builder = builder.with_config_entry(lent::ROOT, root).map_err(refused).in_file(&path)?;
        }
        let opened = match &message {
            Some(message) => builder.commit_from_memory(message),
            None => builder.commit_from_file(&path),
        };
        let inner = opened.map_err(|error| at_opening(refused(error), settings.device, runtime.facts())).in_file(&path)?;
        let required = inner.inputs().iter().map(|port| Port::new(port.name(), port.dtype(), Presence::Required));
        let optional = inner.overridable_initializers();
        let inputs = required.chain(optional.iter().map(|port| Port::new(port.name(), port.dtype(), Presence::Optional))).collect();
        let outputs = inner.outputs().iter().map(|port| Port::new(port.name(), port.dtype(), Presence::Required)).collect();
        Ok(Self { inner, _lent: lent, path, device: settings.device, inputs, outputs, growth: cuda::Growth::default() })
    }

    /// The graph's inputs, in its order; those that the graph has a value for come last.
    #[must_use]
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The graph's outputs, in its order.
    #[must_use]
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The device that the graph runs on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The input of a name, if the graph has it.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output of a name, if the graph has it.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// Runs the graph and brings the named outputs into ordinary memory, in the order of their names.
    ///
    /// # Errors
    /// As [`run_on_device`](Self::run_on_device), and for outputs of types that [`HostTensor`] does not have.
    pub fn run(&mut self, feeds: &[Feed<'_>], outputs: &[&str]) -> Result<Vec<HostTensor>> {
        let values = self.run_on_device(feeds, outputs)?;
        let named = values.iter().zip(outputs);
        named.map(|(value, name)| value.to_host().at(Place::Tensor((*name).to_owned())).in_file(&self.path)).collect()
    }

    /// Runs the graph and leaves the named outputs on the device, in the order of their names: what one run gives can feed the next.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Mismatch`](ErrorKind::Mismatch) or [`Invalid`](ErrorKind::Invalid) for inputs that the graph does
    /// not take, [`Runtime`](ErrorKind::Runtime) if the run fails; all with the graph's file.
    pub fn run_on_device(&mut self, feeds: &[Feed<'_>], outputs: &[&str]) -> Result<Vec<DeviceTensor>> {
        self.check(feeds, &[])?;
        let mut binding = self.binding()?;
        for feed in feeds {
            feed.bind(&mut binding).in_file(&self.path)?;
        }
        let memory = self.memory()?;
        for name in outputs {
            self.named_output(name)?;
            binding.bind_output_to_device(*name, &memory).map_err(refused).in_file(&self.path)?;
        }
        let path = self.path.clone();
        let mut values = self.run_bound(&binding, feeds).in_file(&path)?;
        outputs
            .iter()
            .map(|name| {
                let value = values.remove(name).ok_or_else(|| Error::not_found("output", *name))?;
                DeviceTensor::from_output(value)
            })
            .collect()
    }

    /// Runs what is bound, `fed` in this run.
    pub(super) fn run_bound<'b, 's: 'b>(&'s mut self, binding: &'b IoBinding, fed: &[Feed<'_>]) -> Result<SessionOutputs<'b>> {
        let numbers = fed.iter().map(|feed| feed.shape().iter().product::<usize>()).sum();
        let device = self.device;
        let run = match self.growth.with(device, numbers) {
            None => self.inner.run_binding(binding),
            Some(place) => {
                let mut options = RunOptions::new().map_err(refused)?;
                options.set(GIVES_BACK, place).map_err(refused)?;
                self.inner.run_binding_with_options(binding, &options)
            }
        };
        run.map_err(|error| {
            let error = refused(error);
            let is_of_cudnn = device != Device::Cpu && error.to_string().to_lowercase().contains("cudnn");
            let hint = cuda::hint(&error.to_string());
            if is_of_cudnn { error.with_hint(hint) } else { error }
        })
    }

    /// Checks inputs before ONNX Runtime sees them: its own messages do not say which file, and a wrong one may come late.
    pub(super) fn check(&self, feeds: &[Feed<'_>], bound: &[&str]) -> Result<()> {
        for feed in feeds {
            let port = self.named_input(feed.name)?;
            if let Some((expected, found)) = port.element_type.zip(feed.element_type()).filter(|(expected, found)| expected != found) {
                return Err(self.at_tensor(&port.name, Error::mismatch("element type", expected, found)));
            }
            let shape = feed.shape();
            if !port.accepts(&shape) {
                let expected = port.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(self.at_tensor(&port.name, Error::mismatch("shape", format!("[{expected}]"), format!("{shape:?}"))));
            }
        }
        let is_given = |name: &str| bound.contains(&name) || feeds.iter().any(|feed| feed.name == name);
        let required = self.inputs.iter().filter(|port| port.presence == Presence::Required);
        let missing: Vec<&str> = required.map(|port| port.name.as_str()).filter(|name| !is_given(name)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid(format!("no value for input {}", missing.join(", ")))).in_file(&self.path)
        }
    }

    pub(super) fn named_input(&self, name: &str) -> Result<&Port> {
        self.input(name).ok_or_else(|| self.missing("input", name, &self.inputs))
    }

    pub(super) fn named_output(&self, name: &str) -> Result<&Port> {
        self.output(name).ok_or_else(|| self.missing("output", name, &self.outputs))
    }

    pub(super) fn at_tensor(&self, name: &str, error: Error) -> Error {
        error.at(Place::Tensor(name.to_owned())).in_file(&self.path)
    }

    pub(super) fn binding(&self) -> Result<IoBinding> {
        self.inner.create_binding().map_err(refused).in_file(&self.path)
    }

    /// The memory that tensors of this session's device live in.
    pub(super) fn memory(&self) -> Result<MemoryInfo<'static>> {
        let (place, number) = match self.device {
            Device::Cpu => (AllocationDevice::CPU, 0),
            Device::Cuda(number) => (AllocationDevice::CUDA, number),
        };
        MemoryInfo::new(place, number, AllocatorType::Device, MemoryType::Default).map_err(refused)
    }

    pub(super) fn allocator(&self) -> Result<Allocator> {
        Allocator::new(&self.inner, self.memory()?).map_err(refused).in_file(&self.path)
    }

    /// The graph's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn missing(&self, what: &'static str, name: &str, ports: &[Port]) -> Error {
        let names = ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
        Error::not_found(what, name).in_file(&self.path).with_hint(format!("this graph has the {what}s {names}"))
    }
}

/// What ONNX Runtime says of a node that it has no kernel for.
const NO_KERNEL: &str = "Could not find an implementation for";

fn at_opening(error: Error, device: Device, facts: &Facts) -> Error {
    let hint = match (error.kind(), device) {
        (ErrorKind::Runtime(message), _) if facts.is_behind(message) => Some(format!(
            "this ONNX Runtime is {}, and the graph may need a newer one: {HINT}",
            facts.version.as_deref().unwrap_or("of unknown version")
        )),
        (ErrorKind::Runtime(message), _) if message.contains(NO_KERNEL) => Some(format!(
            "{device} has no kernel for this operator and type in this ONNX Runtime: `precision float32` has one everywhere; the processor computes in no bfloat16"
        )),
        (ErrorKind::Runtime(message), Device::Cuda(_)) => Some(cuda::hint(message)),
        _ => None,
    };
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
