//! peft-onnx as a Python module: models, bundles and trainers whose batches are numpy arrays.
//!
//! The signatures that people read, with what each thing does, are in `peft_onnx/__init__.pyi`.

mod arrays;
mod trainer;

use std::path::PathBuf;

use bytes::Bytes;
use numpy::PyArrayDyn;
use peft_onnx::adapter::Method;
use peft_onnx::adapter::config::options::Options;
use peft_onnx::adapter::config::{Scope, Selection, Targets, Task};
use peft_onnx::adapter::methods;
use peft_onnx::export::{AdapterSource, Injection};
use peft_onnx::{Adapter, onnx, peft};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

pyo3::create_exception!(_native, Error, pyo3::exceptions::PyException, "What went wrong, where, and what to do about it.");

/// An error of the library as Python's, with its hint.
pub(crate) fn raised(error: peft_onnx::Error) -> PyErr {
    let hint = error.hint().map(str::to_owned);
    let words = hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error}\nhint: {hint}"));
    Python::attach(|py| {
        let error = Error::new_err(words);
        let _ = error.value(py).setattr("hint", hint);
        error
    })
}

/// An ONNX model, read and recognised.
#[pyclass(frozen, module = "peft_onnx")]
struct Model(peft_onnx::Model);

#[pymethods]
impl Model {
    /// A file, or the model in a folder.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let file = in_folder(path);
        py.detach(|| peft_onnx::Model::open(file)).map(Self).map_err(raised)
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let bytes = Bytes::copy_from_slice(data);
        py.detach(|| peft_onnx::Model::from_bytes(bytes)).map(Self).map_err(raised)
    }

    #[getter]
    fn inputs(&self) -> Vec<String> {
        let graph = self.0.graph();
        graph.inputs().iter().filter(|id| graph.initializer(**id).is_none()).map(|id| graph.value_name(*id).to_owned()).collect()
    }

    #[getter]
    fn outputs(&self) -> Vec<String> {
        let graph = self.0.graph();
        graph.outputs().iter().map(|id| graph.value_name(*id).to_owned()).collect()
    }

    #[getter]
    fn modules(&self) -> Vec<String> {
        self.0.anatomy().projections.iter().map(|projection| projection.module.clone()).collect()
    }
}

/// The model of a folder.
fn in_folder(path: PathBuf) -> PathBuf {
    let there = ["model.onnx", "onnx/model.onnx"].map(|name| path.join(name)).into_iter().find(|file| file.is_file());
    there.unwrap_or(path)
}

/// A model with an adapter in it, in memory.
#[pyclass(frozen, module = "peft_onnx")]
struct Bundle(peft_onnx::Bundle);

#[pymethods]
impl Bundle {
    #[getter]
    fn method(&self) -> String {
        self.0.manifest().method.clone()
    }

    #[getter]
    fn task(&self) -> String {
        self.0.manifest().task.clone()
    }

    #[getter]
    fn trainable_count(&self) -> usize {
        self.0.manifest().trainable_count
    }

    #[getter]
    fn inputs(&self) -> PyResult<Vec<String>> {
        trainer::data_inputs(&self.0).map_err(raised)
    }

    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = serde_json::to_string(self.0.manifest()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        py.import("json")?.call_method1("loads", (text,))
    }

    fn adapter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        tensors(py, &self.0.files().map_err(raised)?)
    }

    fn save_adapter(&self, folder: PathBuf) -> PyResult<()> {
        self.0.files().and_then(|files| peft::write(&folder, &files)).map(|_| ()).map_err(raised)
    }
}

/// The tensors of an adapter as arrays.
pub(crate) fn tensors<'py>(py: Python<'py>, files: &Adapter) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for (name, tensor) in &files.tensors {
        let values = tensor.to_f32().ok_or_else(|| PyTypeError::new_err(format!("{name} has no floats")))?;
        let array = numpy::ndarray::ArrayD::from_shape_vec(tensor.shape().to_vec(), values.to_vec());
        let array = array.map_err(|error| PyValueError::new_err(error.to_string()))?;
        found.set_item(name, PyArrayDyn::from_owned_array(py, array))?;
    }
    Ok(found)
}

/// Puts an adapter into a model.
#[pyfunction]
#[pyo3(signature = (model, *, method = "lora", adapter = None, task = None, rank = None, alpha = None, dropout = None, target_modules = None, settings = None, seed = 42))]
#[expect(clippy::too_many_arguments, reason = "keywords of a function in Python")]
fn inject(
    py: Python<'_>,
    model: &Model,
    method: &str,
    adapter: Option<PathBuf>,
    task: Option<&str>,
    rank: Option<usize>,
    alpha: Option<f64>,
    dropout: Option<f64>,
    target_modules: Option<Bound<'_, PyAny>>,
    settings: Option<Bound<'_, PyDict>>,
    seed: u64,
) -> PyResult<Bundle> {
    let task =
        task.map(|name| Task::from_name(name).ok_or_else(|| PyValueError::new_err(format!("there is no task {name:?}")))).transpose()?;
    let adapter = match adapter {
        Some(folder) => {
            let given = [("rank", rank.is_some()), ("alpha", alpha.is_some()), ("dropout", dropout.is_some())];
            let given = given.into_iter().chain([("target_modules", target_modules.is_some()), ("settings", settings.is_some())]);
            if let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
                return Err(PyValueError::new_err(format!("{name}: the adapter says it itself")));
            }
            AdapterSource::Folder(folder)
        }
        None => AdapterSource::Fresh(fresh(py, method, (rank, alpha, dropout), target_modules, settings)?),
    };
    let asked = Injection { adapter, task, seed, ..Injection::default() };
    let model = model.0.clone();
    py.detach(move || peft_onnx::Bundle::of(&model, &asked)).map(Bundle).map_err(raised)
}

/// A method with its settings.
fn fresh(
    py: Python<'_>,
    method: &str,
    (rank, alpha, dropout): (Option<usize>, Option<f64>, Option<f64>),
    target_modules: Option<Bound<'_, PyAny>>,
    settings: Option<Bound<'_, PyDict>>,
) -> PyResult<Method> {
    if methods::named(method).is_none() {
        return Err(PyValueError::new_err(format!("there is no method {method:?}; there are {}", names().join(", "))));
    }
    let targets = match target_modules {
        None => Targets::Default,
        Some(names) => match names.extract::<String>() {
            Ok(text) if text == "all-linear" => Targets::AllLinear,
            Ok(text) => Targets::Only(Selection::Regex(text)),
            Err(_) => Targets::Only(Selection::Names(names.try_iter()?.map(|name| name?.extract()).collect::<PyResult<_>>()?)),
        },
    };
    let scope = Scope { targets, ..Scope::default() };
    let options = Options { name: method.to_owned(), scope, rank, alpha, dropout, ..Options::default() };
    let method = methods::configure(&options).map_err(raised)?;
    let Some(settings) = settings else { return Ok(method) };
    let text: String = py.import("json")?.call_method1("dumps", (settings,))?.extract()?;
    let wanted = serde_json::from_str(&text).map_err(|error| PyValueError::new_err(error.to_string()))?;
    method.with_settings(&wanted).map_err(raised)
}

/// Folds the adapter into the weights.
#[pyfunction]
#[pyo3(signature = (bundle, path = None))]
fn merge<'py>(py: Python<'py>, bundle: &Bundle, path: Option<PathBuf>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let bundle = bundle.0.clone();
    let bytes = py.detach(move || bundle.merged().and_then(|graph| onnx::to_bytes(&graph))).map_err(raised)?;
    match path {
        None => Ok(Some(PyBytes::new(py, &bytes))),
        Some(path) => peft_onnx::files::replace(&path, &bytes).map(|()| None).map_err(raised),
    }
}

/// The names of all methods.
#[pyfunction]
#[pyo3(name = "methods")]
fn names() -> Vec<&'static str> {
    methods::all().into_iter().map(|row| row.name).collect()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<Error>())?;
    module.add_class::<Model>()?;
    module.add_class::<Bundle>()?;
    module.add_class::<trainer::Step>()?;
    module.add_class::<trainer::Trainer>()?;
    module.add_function(wrap_pyfunction!(inject, module)?)?;
    module.add_function(wrap_pyfunction!(merge, module)?)?;
    module.add_function(wrap_pyfunction!(names, module)?)?;
    Ok(())
}
