//! The training step for runtimes that feed only what must be fed.
//!
//! In a bundle the state's inputs have default values, so that a loop may leave them out in its first step. Some bindings of ONNX Runtime
//! (onnxruntime-node) do not pass on values for such inputs. Here the state must be fed, and another graph gives the first one.

use std::path::Path;

use super::Manifest;
use crate::error::{Context, Error, Result};
use crate::ir::{Builder, Graph, ModelInfo, Tensor};
use crate::onnx::{self, Storage, WriteOptions};
use crate::train::optimizer::names;

/// The graph that gives the state before the first step: no inputs; outputs `trainable`, `adam_m`, `adam_v`.
pub const INITIAL: &str = "initial.onnx";

/// The graph of a step; the state's inputs have no default values.
pub const TRAINING: &str = "training.onnx";

const STATE: [&str; 3] = [names::TRAINABLE, names::ADAM_M, names::ADAM_V];

/// Writes [`TRAINING`] and [`INITIAL`] of a bundle into `folder`, each with its weights beside it.
///
/// # Errors
/// If the bundle is not whole, or the folder cannot be written.
pub fn write(bundle: &Path, folder: &Path) -> Result<()> {
    let manifest = Manifest::read(bundle)?;
    let path = bundle.join(&manifest.graph("training")?.file);
    let (training, state) = without_defaults(&onnx::read(&path)?).in_file(&path)?;
    std::fs::create_dir_all(folder).in_file(folder)?;
    for (graph, file, weights) in [(training, TRAINING, "training.data"), (initial(state)?, INITIAL, "initial.data")] {
        let storage = Storage::External { file: weights.to_owned() };
        onnx::write(&graph, &folder.join(file), &WriteOptions { storage })?;
    }
    Ok(())
}

/// The graph whose state must be fed, and the values that it had by default.
fn without_defaults(graph: &Graph) -> Result<(Graph, Vec<(&'static str, Tensor)>)> {
    let b = Builder::on(graph);
    let state = STATE.into_iter().map(|name| {
        let input = b.input_named(name).ok_or_else(|| Error::not_found("input", name))?;
        let value = b.initial(input.id()).ok_or_else(|| Error::invalid(format!("input {name} has no value")))?;
        b.require_input(input);
        Ok((name, value))
    });
    let state = state.collect::<Result<_>>()?;
    Ok((b.finish()?, state))
}

fn initial(state: Vec<(&'static str, Tensor)>) -> Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    for (name, value) in state {
        b.output(name, b.initializer(&format!("{name}_at_first"), value));
    }
    b.finish()
}
