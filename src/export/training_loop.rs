//! A bundle for a training loop of the user's own, in any language: files that need neither the bundle nor the base.
//!
//! Every input must be fed; the optimizer's numbers are fixed; another graph gives the first state. All graphs share one file of weights.

mod portable;

use std::path::Path;

use indexmap::IndexMap;

use super::Bundle;
use super::manifest::{self, GraphFile, Manifest};
use crate::contract::{GraphName, Input, PortRole};
use crate::error::{Error, Result};
use crate::files;
use crate::ir::{Builder, Graph, ModelInfo, Tensor};
use crate::onnx::{self, Sharing, Storage, WriteOptions};
use crate::peft;

/// The graph that gives the state before the first step: no inputs; outputs `trainable`, `adam_m`, `adam_v`.
pub const INITIAL: &str = "initial.onnx";

/// The file with the weights of the other graphs.
const WEIGHTS: &str = "training.data";

/// The graphs beside [`INITIAL`]: a whole step; its two halves, for accumulation and data-parallel training; the loss alone; the adapted model, whose
/// adapter is fed.
const GRAPHS: [GraphName; 5] = [GraphName::Training, GraphName::Gradient, GraphName::Update, GraphName::Evaluation, GraphName::Inference];

/// All files of the folder; those with weights are not always there, nor those of a method's own beside the adapter.
pub const FILES: [&str; 13] = [
    "training.onnx",
    "gradient.onnx",
    "update.onnx",
    "evaluation.onnx",
    "inference.onnx",
    INITIAL,
    WEIGHTS,
    "initial.data",
    manifest::FILE,
    peft::CONFIG_FILE,
    peft::WEIGHTS_FILE,
    peft::ENCODER_FILE,
    peft::FACTORS_FILE,
];

/// Writes the [files](FILES) of a bundle into a folder that is there. Optional inputs of a step have these `numbers` by their names from now on, and the
/// others those that they have by default.
///
/// # Errors
/// If the bundle is not whole, or the folder cannot be written.
pub fn write(bundle: &Bundle, numbers: &[(&str, f64)], folder: &Path) -> Result<()> {
    let mut sharing = Sharing::new(Some(folder), WEIGHTS);
    let graphs = graphs(bundle, numbers)?;
    for (name, graph) in &graphs {
        files::replace(&folder.join(file(*name)), &sharing.put(graph)?)?;
    }
    sharing.finish()?;
    for (name, bytes) in beside(bundle, &graphs)? {
        files::replace(&folder.join(name), &bytes)?;
    }
    write_initial(bundle, folder)
}

/// The same files in memory, by their names. That of the first state has its weights inside.
///
/// # Errors
/// If the bundle is not whole.
pub fn in_memory(bundle: &Bundle, numbers: &[(&str, f64)]) -> Result<IndexMap<String, Vec<u8>>> {
    let mut sharing = Sharing::new(None, WEIGHTS);
    let graphs = graphs(bundle, numbers)?;
    let mut all = IndexMap::new();
    for (name, graph) in &graphs {
        all.insert(file(*name), sharing.put(graph)?);
    }
    all.extend(beside(bundle, &graphs)?);
    drop(graphs);
    all.extend(sharing.finish()?.map(|weights| (WEIGHTS.to_owned(), weights)));
    all.insert(INITIAL.to_owned(), onnx::to_bytes(&initial(bundle)?)?);
    Ok(all)
}

/// Writes [`INITIAL`] alone.
///
/// # Errors
/// As [`write()`].
pub fn write_initial(bundle: &Bundle, folder: &Path) -> Result<()> {
    let storage = Storage::External { file: "initial.data".to_owned() };
    onnx::write(&initial(bundle)?, &folder.join(INITIAL), &WriteOptions { storage })
}

/// The adapted model whose adapter every caller feeds: for bindings that feed no optional inputs.
///
/// # Errors
/// As [`Bundle::graph`].
pub fn fed_inference(bundle: &Bundle) -> Result<Graph> {
    portable::requiring(&bundle.adapted()?, |name| adapters_inputs(bundle.manifest()).any(|input| input == name))
}

fn file(name: GraphName) -> String {
    format!("{name}.onnx")
}

fn graphs(bundle: &Bundle, numbers: &[(&str, f64)]) -> Result<Vec<(GraphName, Graph)>> {
    if bundle.manifest().allocation_steps.is_some() {
        let error =
            Error::unsupported("a training loop of one's own with allocated ranks", "its state is the vector and the optimizer's moments");
        return Err(error.with_hint("train it here, or inject without `allocate_ranks`"));
    }
    let graph = |name: GraphName| match name {
        GraphName::Inference => fed_inference(bundle),
        // Batches of one step drop different elements only if they have different seeds.
        GraphName::Gradient => {
            let required = portable::requiring(&bundle.graph(name)?, |input| input == Input::DropoutSeed.name())?;
            portable::portable(&required, numbers)
        }
        _ => portable::portable(&bundle.graph(name)?, numbers),
    };
    GRAPHS.into_iter().map(|name| Ok((name, graph(name)?))).collect()
}

/// The optional inputs of the inference graph that are the adapter's.
fn adapters_inputs(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let made = manifest.trainable.iter().map(|slot| slot.input.as_str());
    let ports = manifest.graphs.get(GraphName::Inference.name()).into_iter().flat_map(|graph| &graph.inputs);
    let others = ports.filter(|port| port.role == PortRole::Parameter).map(|port| port.name.as_str());
    made.chain(others)
}

/// The manifest of these graphs, and the adapter as it is.
fn beside(bundle: &Bundle, graphs: &[(GraphName, Graph)]) -> Result<IndexMap<String, Vec<u8>>> {
    let mut manifest = bundle.manifest().clone();
    let described = |(name, graph): &(GraphName, Graph)| (name.to_string(), GraphFile::describe(&file(*name), graph));
    manifest.graphs = graphs.iter().map(described).collect();
    // They are fed, but not with data.
    let of_adapter: Vec<&str> = adapters_inputs(bundle.manifest()).collect();
    for port in manifest.graphs.get_mut(GraphName::Inference.name()).into_iter().flat_map(|graph| &mut graph.inputs) {
        if of_adapter.contains(&port.name.as_str()) {
            port.role = PortRole::Parameter;
        }
    }
    manifest.base.path.clone_from(&manifest.base.file);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|why| Error::invalid(why.to_string()))?;
    let adapter = bundle.files()?.to_bytes()?;
    let adapter = adapter.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    Ok(std::iter::once((manifest::FILE.to_owned(), text)).chain(adapter).collect())
}

/// The graph of the first state.
fn initial(bundle: &Bundle) -> Result<Graph> {
    let vector = bundle.trainable()?;
    let zeros = Tensor::from_f32(&[vector.len()], &vec![0.0; vector.len()]);
    let b = Builder::new(ModelInfo::dialect());
    let state = [(Input::Trainable, Tensor::from_f32(&[vector.len()], &vector)), (Input::AdamM, zeros.clone()), (Input::AdamV, zeros)];
    for (input, value) in state {
        b.output(input.name(), b.initializer(&format!("{}_at_first", input.name()), value));
    }
    b.finish()
}
