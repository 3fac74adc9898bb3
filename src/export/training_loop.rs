//! The training step for a loop of the user's own, in any language: a folder that needs neither the bundle nor the base.
//!
//! The state must be fed in every step; another graph gives the first one. The optimizer's other numbers are fixed.

mod portable;

use std::path::Path;

use super::{Bundle, trainable};
use crate::contract::{GraphName, Input};
use crate::error::Result;
use crate::ir::{Builder, Graph, ModelInfo, Tensor};
use crate::onnx::{self, Storage, WriteOptions};

/// The graph that gives the state before the first step: no inputs; outputs `trainable`, `adam_m`, `adam_v`.
pub const INITIAL: &str = "initial.onnx";

/// The graph of a step.
pub const TRAINING: &str = "training.onnx";

/// All files of the folder; the last ones are not always there.
pub const FILES: [&str; 4] = [TRAINING, INITIAL, "training.data", "initial.data"];

/// Writes [`TRAINING`] and [`INITIAL`] of a bundle into a folder that is there, each with its weights beside it. Optional inputs of a step have these
/// `numbers` by their names from now on, and the others those that they have by default.
///
/// # Errors
/// If the bundle is not whole, or the folder cannot be written.
pub fn write(bundle: &Bundle, numbers: &[(&str, f64)], folder: &Path) -> Result<()> {
    let storage = Storage::External { file: "training.data".to_owned() };
    let training = portable::portable(&bundle.graph(GraphName::Training)?, numbers)?;
    onnx::write(&training, &folder.join(TRAINING), &WriteOptions { storage })?;
    write_initial(bundle, folder)
}

/// Writes [`INITIAL`] alone.
///
/// # Errors
/// As [`write()`].
pub fn write_initial(bundle: &Bundle, folder: &Path) -> Result<()> {
    let vector = trainable::read(bundle.folder(), bundle.manifest())?;
    let trainable = Tensor::from_f32(&[vector.len()], &vector);
    let zeros = Tensor::from_f32(&[vector.len()], &vec![0.0; vector.len()]);
    let state = [(Input::Trainable.name(), trainable), (Input::AdamM.name(), zeros.clone()), (Input::AdamV.name(), zeros)];
    let storage = Storage::External { file: "initial.data".to_owned() };
    onnx::write(&initial(state)?, &folder.join(INITIAL), &WriteOptions { storage })
}

fn initial(state: [(&'static str, Tensor); 3]) -> Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    for (name, value) in state {
        b.output(name, b.initializer(&format!("{name}_at_first"), value));
    }
    b.finish()
}
