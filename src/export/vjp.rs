//! Gradients for losses that live in another program: a folder with the model's outputs as one graph, and as another one what turns gradients with
//! respect to them into the gradient of the adapter. It needs neither the bundle nor the base.

use std::path::Path;

use super::{Bundle, training_loop};
use crate::contract::{GraphName, Input};
use crate::error::{Context, Error, Result};
use crate::grad;
use crate::ir::{Builder, DType, Dim, Expr, Graph};
use crate::model::base::Base;
use crate::num;
use crate::onnx::{self, Storage, WriteOptions};
use crate::train::cache;
use crate::train::prediction::without_unread_inputs;

/// The graph that gives the model's outputs, of data and the trainable vector.
pub const FORWARD: &str = "forward.onnx";

/// The graph that gives the outputs and the gradient, of the same and of a gradient for each output.
pub const VJP: &str = "vjp.onnx";

/// The graph that makes the next state of a gradient.
pub const UPDATE: &str = "update.onnx";

/// The file with the weights of all of them.
const WEIGHTS: &str = "model.data";

/// What stands behind an output's name in the name of the input with its gradient.
pub const COTANGENT: &str = "_cotangent";

/// The name of the gradient with respect to the trainable vector.
const GRADIENT: &str = "gradient";

/// All files of the folder; the last ones are not always there.
pub const FILES: [&str; 7] = [FORWARD, VJP, UPDATE, training_loop::INITIAL, WEIGHTS, "forward.data", "initial.data"];

/// Writes the graphs of a bundle into a folder that is there.
///
/// # Errors
/// A bundle that is not whole; an adapter that is computed from other tensors; operators without a gradient; a folder that cannot be written.
pub fn write(bundle: &Bundle, folder: &Path) -> Result<()> {
    let path = folder.join(VJP);
    let graph = vjp_graph(bundle)?;
    onnx::write(&graph, &path, &WriteOptions { storage: Storage::External { file: WEIGHTS.to_owned() } })?;
    drop(graph);
    // The other graph reads the same weights.
    let forward = without_gradient(&onnx::read(&path)?)?;
    let weights = std::path::absolute(folder.join(WEIGHTS)).in_file(folder)?;
    let files = if weights.is_file() { vec![(weights, WEIGHTS.to_owned())] } else { vec![] };
    onnx::write(&forward, &folder.join(FORWARD), &WriteOptions { storage: Storage::Refer { files, file: "forward.data".to_owned() } })?;
    onnx::write(&bundle.graph(GraphName::Update)?, &folder.join(UPDATE), &WriteOptions { storage: Storage::Inline })?;
    training_loop::write_initial(bundle, folder)
}

/// Data, the trainable vector and a gradient for each output in; the outputs and the gradient with respect to the vector out.
fn vjp_graph(bundle: &Bundle) -> Result<Graph> {
    let base = Base::of(&with_required_adapter(bundle)?).and_then(Base::to_train).in_file(bundle.folder())?;
    let graph = base.trained();
    let b = Builder::on(graph);
    let outputs: Vec<(String, Expr<'_>)> = graph
        .outputs()
        .iter()
        .map(|&id| (graph.value_name(id).to_owned(), b.expr(id)))
        .filter(|(name, value)| value.dtype().is_float() && !name.starts_with("present"))
        .collect();
    if outputs.is_empty() {
        return Err(Error::unsupported("gradients of this model's outputs", "none of them is of floats")).in_file(bundle.model());
    }
    b.clear_outputs();
    cache::close(&b, &base.anatomy);
    let trainable = flatten(&b, bundle)?;
    let seeds: Vec<(Expr<'_>, Expr<'_>)> =
        outputs.iter().map(|(name, value)| (*value, b.input(&format!("{name}{COTANGENT}"), value.dtype(), &value.known_dims()))).collect();
    let gradient = grad::vjp(&b, &seeds, &[trainable]).in_file(bundle.model())?[0];
    let gradient = gradient.ok_or_else(|| Error::invalid("no output depends on the adapter").in_file(bundle.folder()))?;
    for (name, value) in &outputs {
        b.output(name, *value);
    }
    b.output(GRADIENT, gradient);
    without_unread_inputs(&b.finish()?)
}

/// The inference graph with the adapter's tensors as inputs like others: what has a value of its own is a constant to who reads a model.
fn with_required_adapter(bundle: &Bundle) -> Result<Graph> {
    let graph = bundle.adapted()?;
    let b = Builder::on(&graph);
    for slot in &bundle.manifest().trainable {
        b.input_named(&slot.input).into_iter().for_each(|input| b.require_input(input));
    }
    b.finish()
}

/// Replaces the adapter's inputs by parts of the trainable vector.
fn flatten<'g>(b: &'g Builder, bundle: &Bundle) -> Result<Expr<'g>> {
    let manifest = bundle.manifest();
    let length = num::int;
    let trainable = b.input(Input::Trainable.name(), DType::F32, &[Dim::known(length(manifest.trainable_count))]);
    for slot in &manifest.trainable {
        let count = slot.shape.iter().product::<usize>();
        let input = b.input_named(&slot.input).ok_or_else(|| {
            let why = format!("{} is not an input of the inference graph, which has what is computed from it", slot.input);
            Error::unsupported(format!("gradients of outputs for the method {}", manifest.method), why)
                .in_file(bundle.folder())
                .with_hint("`export --format training` writes the whole step; `inject --loss-graph` brings any loss that is a graph")
        })?;
        let part = trainable.slice(&[length(slot.offset)], &[length(slot.offset + count)], &[0]);
        let shape: Vec<i64> = slot.shape.iter().copied().map(length).collect();
        b.remove_input(input, part.reshape(&shape).cast(input.dtype()));
    }
    Ok(trainable)
}

/// The same without the gradient and what it is made of.
fn without_gradient(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let outputs: Vec<(String, Expr<'_>)> = graph.outputs().iter().map(|&id| (graph.value_name(id).to_owned(), b.expr(id))).collect();
    b.clear_outputs();
    for (name, value) in outputs.iter().filter(|(name, _)| name != GRADIENT) {
        b.output(name, *value);
    }
    without_unread_inputs(&b.finish()?)
}
