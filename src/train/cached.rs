//! Graphs for losses of vectors that need the whole batch where memory holds only a part of it (Gao et al. 2021, GradCache):
//!
//! 1. `encode`: the vectors of a part's texts;
//! 2. `loss`: the loss of all vectors, and its gradient with respect to each;
//! 3. `vjp`: the gradient with respect to the adapter of a part's vectors, whose own gradients are given; added to that of the parts before.
//!
//! The sum over all parts is the gradient of the whole batch, to rounding.

use super::formula::Formula;
use super::objective::Model;
use super::order;
use super::prepared::Prepared;
use crate::contract::{Input, Output};
use crate::grad;
use crate::ir::{Builder, DType, Dim, Graph, ModelInfo, simplify};
use crate::{Error, Result};

/// The output of `encode` and input of `loss`, float32 `[texts, hidden]`.
pub const VECTORS: &str = "embeddings";
/// The output of `loss` and input of `vjp`, of the same shape.
pub const VECTORS_GRADIENT: &str = "embeddings_gradient";

/// The vectors of texts.
///
/// # Errors
/// A graph that does not give what the loss reads.
pub fn encode_graph(model: Model<'_>, formula: &Formula) -> Result<Graph> {
    let b = Builder::on(model.graph);
    let vectors = Prepared::new(&b, model)?.vectors(model, formula)?;
    b.output(VECTORS, vectors);
    Ok(order::weights_first(simplify(&b.finish()?)?))
}

/// The loss of all vectors, and its gradient with respect to each.
///
/// # Errors
/// None for a formula whose graphs of training were written.
pub fn loss_graph(formula: &Formula, hidden: Option<i64>) -> Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    let texts = Dim::symbol("texts");
    let vectors = b.input(VECTORS, DType::F32, &[texts.clone(), hidden.map_or_else(|| Dim::symbol("hidden"), Dim::known)]);
    let sum = formula.of_outputs(&b, &[vectors], &[texts])?.sum;
    let loss = sum.sum / sum.count;
    let gradient = grad::gradients(&b, loss, &[vectors])?[0];
    b.output(Output::Loss.name(), loss);
    b.output(VECTORS_GRADIENT, gradient);
    simplify(&b.finish()?)
}

/// The gradient of a part's vectors: `gradient` in, `gradient_next` out.
///
/// # Errors
/// Operators on the way from the adapter to the vectors that have no gradient.
pub fn vjp_graph(model: Model<'_>, formula: &Formula) -> Result<Graph> {
    let b = Builder::on(model.graph);
    let prepared = Prepared::new(&b, model)?;
    let vectors = prepared.vectors(model, formula)?;
    let given = b.input(VECTORS_GRADIENT, DType::F32, &vectors.known_dims());
    let gradient = prepared.repeating(model, &[(vectors, given)], &[vectors.id()])?;
    b.output("backward/gradient", gradient);
    let graph = simplify(&b.finish()?)?;
    let output = *graph.outputs().first().ok_or_else(|| Error::graph("the gradient is gone"))?;
    let graph = order::parts_last(graph, output);
    let b = Builder::on(&graph);
    b.clear_outputs();
    let gradient = b.expr(output);
    let so_far = b.input(Input::Gradient.name(), DType::F32, &gradient.known_dims());
    b.output(Output::GradientNext.name(), so_far + gradient);
    b.finish()
}
