//! peft-onnx in a browser: models are read, adapted and merged in memory. What JavaScript programs use is the package around it, `web/src/core.ts`.
//!
//! Options and descriptions go as JSON; models, weights and adapters as bytes in [`Files`]. An error is a JavaScript `Error` whose message ends with a
//! line `hint: ..` where something can be done about it. Warnings are kept until they are [taken](take_warnings).

mod files;
mod injection;
mod warnings;

use std::path::Path;

use peft_onnx::export::adapter_file::Frame;
use peft_onnx::export::merge::{self, Quantised};
use peft_onnx::export::{Manifest, manifest, onnx_adapter, training_loop};
use peft_onnx::inspect::Report;
use peft_onnx::ir::Graph;
use peft_onnx::onnx::{self, Sharing};
use peft_onnx::{Bundle, Error, Model, Result};
use wasm_bindgen::prelude::*;

pub use files::Files;
pub use warnings::take_warnings;

/// What a model in memory is called in messages, and a merged one by its file.
const MODEL: &str = "model.onnx";

/// The file with the weights of a merged model, where the base has such a file.
const WEIGHTS: &str = "model.onnx.data";

/// Has panics and warnings told.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|what| wasm_bindgen::throw_str(&format!("this is a fault of peft-onnx: {what}"))));
    warnings::keep();
}

/// A model, read and recognised.
#[wasm_bindgen(js_name = CoreModel)]
pub struct CoreModel {
    raw: Graph,
    model: Model,
    has_external: bool,
}

#[wasm_bindgen(js_class = CoreModel)]
impl CoreModel {
    /// Of a model's bytes; `data` are the files that its weights lie in, by the locations that it gives them, and `beside` files that belong to it,
    /// such as config.json.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: Vec<u8>, data: &Files, beside: &Files) -> Result<Self, JsError> {
        told(Self::read(bytes, data, beside))
    }

    /// What is known of it: what `peft-onnx inspect --json` prints.
    pub fn inspect(&self) -> Result<String, JsError> {
        told(json(&Report::of(Path::new(MODEL), &self.raw, self.model.beside())))
    }

    /// The files of a training loop with a fresh adapter, or one that is there. `options` are JSON, by the names of the command line's options.
    pub fn inject(&self, options: &str, adapter: Option<Files>) -> Result<Files, JsError> {
        told(self.injected(options, adapter))
    }

    /// The model with an adapter folded in. `manifest` is that of the adapter's files.
    pub fn merge(&self, manifest: &str, adapter: &Files, requantize: bool) -> Result<Files, JsError> {
        told(self.merged(manifest, adapter, requantize))
    }
}

impl CoreModel {
    fn read(bytes: Vec<u8>, data: &Files, beside: &Files) -> Result<Self> {
        let raw = onnx::read_bytes(bytes, &data.named())?;
        let model = beside.named().into_iter().fold(Model::of(&raw)?, |model, (name, bytes)| model.with_file(name, bytes));
        Ok(Self { raw, model, has_external: !data.named().is_empty() })
    }

    fn injected(&self, options: &str, adapter: Option<Files>) -> Result<Files> {
        let asked = injection::Asked::read(options)?;
        let injection = asked.injection(adapter.as_ref().map(Files::adapter).transpose()?)?;
        let bundle = Bundle::of(&self.model, &injection)?;
        let bundle = if asked.class_names.is_empty() { bundle } else { bundle.with_class_names(&asked.class_names)? };
        training_loop::in_memory(&bundle, &asked.numbers()).map(Files::from)
    }

    fn merged(&self, manifest: &str, adapter: &Files, requantize: bool) -> Result<Files> {
        let quantised = if requantize { Quantised::Requantised } else { Quantised::Beside };
        let merged = merge::merge(self.model.clone(), &read_manifest(manifest)?, &adapter.adapter()?, quantised)?;
        let mut files = Files::default();
        if self.has_external {
            let mut sharing = Sharing::new(None, WEIGHTS);
            files.insert(MODEL, sharing.put(&merged.graph)?);
            if let Some(weights) = sharing.finish()? {
                files.insert(WEIGHTS, weights);
            }
        } else {
            files.insert(MODEL, onnx::to_bytes(&merged.graph)?);
        }
        Ok(files)
    }
}

/// The files of an adapter, as Hugging Face PEFT reads them, with a trainable vector; `adapter` is what it was before.
#[wasm_bindgen(js_name = filledAdapter)]
pub fn filled_adapter(manifest: &str, adapter: &Files, vector: &[f32]) -> Result<Files, JsError> {
    let filled = || {
        let adapter = adapter.adapter()?;
        let filled = Frame::of(&adapter)?.filled(&adapter, &read_manifest(manifest)?, vector)?;
        filled.to_bytes().map(Files::from)
    };
    told(filled())
}

/// The trainable vector of an adapter.
#[wasm_bindgen(js_name = trainableOf)]
pub fn trainable_of(manifest: &str, adapter: &Files) -> Result<Vec<f32>, JsError> {
    told(adapter.adapter().and_then(|adapter| peft_onnx::export::trainable::of(&adapter, &read_manifest(manifest)?)))
}

/// The numbers that an inference graph is fed for an adapter, float32, by the names of its inputs. `own` is the adapter that the graph was made for: another one may
/// have other scales.
#[wasm_bindgen(js_name = adapterInputs)]
pub fn adapter_inputs(manifest: &str, own: &Files, adapter: &Files) -> Result<Files, JsError> {
    let inputs = || {
        let mut files = Files::default();
        for (name, tensor) in onnx_adapter::fed(&read_manifest(manifest)?, &own.adapter()?, adapter.adapter()?)? {
            let numbers = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))?;
            files.insert(&name, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        }
        Ok(files)
    };
    told(inputs())
}

fn read_manifest(text: &str) -> Result<Manifest> {
    Manifest::from_json(text).map_err(|error| error.in_file(manifest::FILE))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|why| Error::invalid(why.to_string()))
}

/// An error as JavaScript has it.
fn told<T>(result: Result<T>) -> Result<T, JsError> {
    result.map_err(|error| match error.hint() {
        Some(hint) => JsError::new(&format!("{error}\nhint: {hint}")),
        None => JsError::new(&error.to_string()),
    })
}
