//! Graphs for losses that need the whole batch where memory holds only a part of it (Gao et al. 2021, GradCache):
//!
//! 1. `encode`: the vectors of a part's texts;
//! 2. `loss`: the loss of all vectors, and its gradient with respect to each;
//! 3. `vjp`: the gradient with respect to the adapter of a part's vectors, whose own gradients are given; added to that of the parts before.
//!
//! What the adapter adds to the loss (a penalty) depends on no text: `encode` gives it, and `vjp` adds its gradient times the part's share of it.
//!
//! A text that a language model judges has a vector of one number: how much likelier its completion is than the reference had it, as a logarithm.
//!
//! The sum over all parts is the gradient of the whole batch, to rounding.

use super::formula::Formula;
use super::losses::{COMPLETION, REFERENCE, Reads};
use super::objective::Model;
use super::order;
use super::prepared::Prepared;
use super::step::lean;
use crate::adapter::PENALTY;
use crate::contract::{Input, Output};
use crate::grad;
use crate::ir::{Builder, DType, Dim, Expr, Graph, ModelInfo, ValueId, simplify};
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
    let prepared = Prepared::new(&b, model)?;
    let (vectors, _) = prepared.encoded(model, formula, None)?;
    b.output(VECTORS, vectors);
    if let Some(penalty) = prepared.penalty() {
        b.output(PENALTY, penalty);
    }
    Ok(order::weights_first(simplify(&b.finish()?)?))
}

/// The loss of all vectors, and its gradient with respect to each.
///
/// # Errors
/// None for a formula whose graphs of training were written.
pub fn loss_graph(formula: &Formula) -> Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    let is_of_completions = formula.loss.reads == Reads::TokenLogProbs;
    let hidden = if is_of_completions { Dim::known(1) } else { Dim::symbol("hidden") };
    let like = [Dim::symbol("texts"), hidden];
    let vectors = b.input(VECTORS, DType::F32, &like);
    let sum = formula.of_outputs(&b, &[vectors], &like)?.sum;
    if is_of_completions {
        // Each is as a completion of one token, with the reference taken off.
        let known = [(COMPLETION, vectors.filled_like(1.0)), (REFERENCE, vectors.reshape(&[-1]).filled_like(0.0))];
        for (input, value) in known.into_iter().filter_map(|(name, value)| Some((b.input_named(name)?, value))) {
            b.remove_input(input, value);
        }
    }
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
    let (vectors, mut seeds) = prepared.encoded(model, formula, Some(VECTORS_GRADIENT))?;
    if let Some(penalty) = prepared.penalty() {
        seeds.push((penalty, b.input(Input::PenaltyShare.name(), DType::F32, &[])));
    }
    let ends: Vec<ValueId> = seeds.iter().map(|(value, _)| value.id()).chain([vectors.id()]).collect();
    let gradient = prepared.repeating(model, &seeds, &ends)?;
    b.output("backward/gradient", gradient);
    let graph = lean(b.finish()?)?;
    let output = *graph.outputs().first().ok_or_else(|| Error::graph("the gradient is gone"))?;
    let graph = order::parts_last(graph, output);
    let b = Builder::on(&graph);
    b.clear_outputs();
    let gradient = b.expr(output);
    let so_far = b.input(Input::Gradient.name(), DType::F32, &gradient.known_dims());
    b.output(Output::GradientNext.name(), so_far + gradient);
    b.finish()
}

impl<'g> Prepared<'g> {
    /// What a loss compares of each text, `[texts, numbers]`, and where backpropagation goes on if `gradient` names the input with its gradient.
    ///
    /// # Errors
    /// A graph that does not give what the loss reads.
    fn encoded(&self, model: Model<'_>, formula: &Formula, gradient: Option<&str>) -> Result<(Expr<'g>, Vec<(Expr<'g>, Expr<'g>)>)> {
        let given = |values: Expr<'g>| gradient.map(|name| values.b().input(name, DType::F32, &values.known_dims()));
        if formula.loss.reads != Reads::TokenLogProbs {
            let vectors = self.vectors(model, formula)?;
            return Ok((vectors, given(vectors).map(|gradient| (vectors, gradient)).into_iter().collect()));
        }
        self.with_tokens(model, |tokens, like| {
            let values = tokens.values();
            let ratios = formula.log_ratios(values.b(), values, like)?;
            let Some(gradient) = given(ratios) else { return Ok((ratios, vec![])) };
            Ok((ratios, tokens.seeds((ratios * gradient).sum_all(), self.trainable()?)?))
        })
    }
}
