//! Training in steps over arrays.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use peft_onnx::contract::{GraphName, PortRole};
use peft_onnx::data::Batch;
use peft_onnx::ort::{Device, ElementType};
use peft_onnx::training::Optimizer;
use peft_onnx::{Error, Result, TrainerOptions, peft};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::{Bundle, arrays, raised, tensors};

/// What a step found.
#[pyclass(frozen, get_all, module = "peft_onnx")]
#[derive(Clone, Copy)]
pub(crate) struct Step {
    number: u64,
    loss: f32,
    grad_norm: f32,
    is_updated: bool,
}

#[pymethods]
impl Step {
    fn __repr__(&self) -> String {
        format!("Step(number={}, loss={}, grad_norm={}, is_updated={})", self.number, self.loss, self.grad_norm, self.is_updated)
    }
}

/// The names of what a batch has: data and labels.
pub(crate) fn data_inputs(bundle: &peft_onnx::Bundle) -> Result<Vec<String>> {
    Ok(ports(bundle)?.into_iter().map(|(name, _)| name).collect())
}

/// The same with the types that the graph asks for.
fn ports(bundle: &peft_onnx::Bundle) -> Result<Vec<(String, Option<ElementType>)>> {
    let manifest = bundle.manifest();
    let graph = [GraphName::Training, GraphName::Gradient].iter().find_map(|name| manifest.graph(name.name()).ok());
    let graph = graph.ok_or_else(|| Error::not_found("graph", "training"))?;
    let types = [
        ("float", ElementType::Float32),
        ("float32", ElementType::Float32),
        ("double", ElementType::Float64),
        ("int64", ElementType::Int64),
        ("int32", ElementType::Int32),
        ("bool", ElementType::Bool),
    ];
    let of = |dtype: &str| types.iter().find(|(name, _)| *name == dtype).map(|(_, element)| *element);
    let data = graph.inputs.iter().filter(|port| matches!(port.role, PortRole::Data | PortRole::Labels));
    Ok(data.map(|port| (port.name.clone(), of(&port.dtype))).collect())
}

/// A bundle being trained.
#[pyclass(module = "peft_onnx", unsendable)]
pub(crate) struct Trainer {
    inner: peft_onnx::Trainer,
    ports: Vec<(String, Option<ElementType>)>,
    learning_rate: f64,
    callbacks: Vec<Py<PyAny>>,
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (bundle, *, learning_rate = 2e-4, weight_decay = 0.0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8, max_grad_norm = Some(1.0), seed = 42, device = "cpu", threads = None, callbacks = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a constructor in Python")]
    fn new(
        bundle: &Bundle,
        learning_rate: f64,
        weight_decay: f64,
        adam_beta1: f64,
        adam_beta2: f64,
        adam_epsilon: f64,
        max_grad_norm: Option<f64>,
        seed: u64,
        device: &str,
        threads: Option<usize>,
        callbacks: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let optimizer = Optimizer {
            learning_rate,
            weight_decay,
            beta1: adam_beta1,
            beta2: adam_beta2,
            epsilon: adam_epsilon,
            max_grad_norm: max_grad_norm.unwrap_or(0.0),
        };
        let device: Device =
            device.parse().map_err(|_| PyValueError::new_err(format!("device: expected cpu, cuda or cuda:N, found {device:?}")))?;
        let threads = threads
            .map(|count| NonZeroUsize::new(count).ok_or_else(|| PyValueError::new_err("threads: expected 1 or more")))
            .transpose()?;
        let options = TrainerOptions { optimizer, seed, device, threads };
        let callbacks = callbacks.map(|all| all.try_iter()?.map(|one| Ok(one?.unbind())).collect::<PyResult<_>>()).transpose()?;
        Ok(Self {
            ports: ports(&bundle.0).map_err(raised)?,
            inner: peft_onnx::Trainer::new(&bundle.0, &options).map_err(raised)?,
            learning_rate,
            callbacks: callbacks.unwrap_or_default(),
        })
    }

    #[getter]
    fn get_learning_rate(&self) -> f64 {
        self.learning_rate
    }

    #[setter]
    fn set_learning_rate(&mut self, rate: f64) -> PyResult<()> {
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(PyValueError::new_err(format!("learning_rate: expected a number from 0, found {rate}")));
        }
        self.learning_rate = rate;
        self.inner.set_learning_rate(rate);
        Ok(())
    }

    fn step(slf: Bound<'_, Self>, batch: &Bound<'_, PyDict>) -> PyResult<Step> {
        Ok(Self::told(&slf, batch)?.0)
    }

    fn train<'py>(slf: Bound<'py, Self>, batches: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let steps = PyList::empty(slf.py());
        for batch in batches.try_iter()? {
            let (step, goes_on) = Self::told(&slf, batch?.cast::<PyDict>()?)?;
            steps.append(Bound::new(slf.py(), step)?)?;
            if !goes_on {
                break;
            }
        }
        Ok(steps)
    }

    fn adapter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        tensors(py, &self.inner.adapter().map_err(raised)?)
    }

    fn bundle(&self) -> PyResult<Bundle> {
        self.inner.bundle().map(Bundle).map_err(raised)
    }

    fn save(&self, folder: PathBuf) -> PyResult<()> {
        self.inner.adapter().and_then(|files| peft::write(&folder, &files)).map(|_| ()).map_err(raised)
    }
}

impl Trainer {
    /// Takes a step and tells the callbacks; whether none of them said no.
    fn told(slf: &Bound<'_, Self>, batch: &Bound<'_, PyDict>) -> PyResult<(Step, bool)> {
        // A callback may use the trainer: it is not borrowed while they run.
        let (step, callbacks) = {
            let mut trainer = slf.try_borrow_mut()?;
            let callbacks: Vec<Py<PyAny>> = trainer.callbacks.iter().map(|callback| callback.clone_ref(slf.py())).collect();
            (trainer.taken(batch)?, callbacks)
        };
        let mut goes_on = true;
        for callback in callbacks {
            let answer = callback.bind(slf.py()).call1((slf, step))?;
            goes_on &= answer.is_none() || answer.is_truthy()?;
        }
        Ok((step, goes_on))
    }

    fn taken(&mut self, batch: &Bound<'_, PyDict>) -> PyResult<Step> {
        let mut given = Batch { label_count: 1.0, ..Batch::default() };
        for (name, array) in batch.iter() {
            let name: String = name.extract()?;
            let Some((_, wanted)) = self.ports.iter().find(|(port, _)| *port == name) else {
                let there: Vec<&str> = self.ports.iter().map(|(name, _)| name.as_str()).collect();
                return Err(PyValueError::new_err(format!("the graph has no input {name:?}; it has {}", there.join(", "))));
            };
            let wanted = wanted.ok_or_else(|| PyValueError::new_err(format!("{name}: its type is not fed from arrays")))?;
            let tensor = arrays::tensor(&array, wanted).map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
            given.tensors.push((name, tensor));
        }
        let step = self.inner.step(&given).map_err(raised)?;
        Ok(Step { number: step.number, loss: step.loss, grad_norm: step.grad_norm, is_updated: step.is_updated })
    }
}
