//! Graphs that predict: what a task reads of a model, without labels and loss.

use super::logits;
use super::objective::{Model, Objective};
use super::recompute::Recompute;
use super::step;
use crate::anatomy::{Anatomy, Reads};
use crate::ir::{Builder, DType, Graph};
use crate::{Error, Result};

/// An evaluation graph without its loss: outputs as [`Reads::names`] has them, inputs without labels.
///
/// # Errors
/// A graph that measures a loss without giving what it read.
pub fn of_evaluation(evaluation: &Graph, reads: Reads) -> Result<Graph> {
    let b = Builder::on(evaluation);
    let kept = |&name: &&'static str| {
        let missing = || Error::unsupported("predicting with this bundle", format!("its evaluation graph has no output {name}"));
        Ok((name, b.output_named(name).ok_or_else(missing)?))
    };
    let kept = reads.names().iter().map(kept).collect::<Result<Vec<_>>>()?;
    b.clear_outputs();
    for (name, value) in kept {
        b.output(name, value);
    }
    without_unread_inputs(&b.finish()?)
}

/// What the loss of a model without an adapter is measured with, as [`evaluation_graph`](super::step::evaluation_graph).
///
/// # Errors
/// A model without what the loss reads.
pub fn measuring(graph: &Graph, anatomy: &Anatomy, objective: &Objective) -> Result<Graph> {
    let shown = logits::shown(graph, anatomy)?;
    let graph = shown.as_ref().unwrap_or(graph);
    let model = Model {
        graph,
        base: graph,
        anatomy,
        params: &[],
        objective,
        positions_without_label: 0,
        virtual_tokens: 0,
        hard_prompt: None,
        recompute: Recompute::None,
    };
    without_unread_inputs(&step::evaluation_graph(model)?)
}

/// The graph without inputs that nothing reads: labels, and what a model is fed for outputs that are not asked for.
///
/// # Errors
/// None for a graph that was finished.
pub fn without_unread_inputs(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    for &id in graph.inputs().iter().filter(|id| graph.uses(**id).is_empty() && !graph.is_output(**id)) {
        let input = b.expr(id);
        b.remove_input(input, b.number(0.0, input.dtype()));
    }
    b.finish()
}

/// The same for a model that has no adapter.
///
/// # Errors
/// A model without logits, where the task reads them.
pub fn of_model(graph: &Graph, anatomy: &Anatomy, objective: &Objective, reads: Reads) -> Result<Graph> {
    let shown = logits::shown(graph, anatomy)?;
    let graph = shown.as_ref().unwrap_or(graph);
    written(Builder::on(graph), graph, anatomy, objective, reads)
}

/// The same for a graph that is being written on `graph`, which gives its logits: what became of values is read in their place.
///
/// # Errors
/// As [`of_model`].
pub fn written(b: Builder, graph: &Graph, anatomy: &Anatomy, objective: &Objective, reads: Reads) -> Result<Graph> {
    let given = match objective {
        Objective::Formula(formula) if !formula.outputs.is_empty() => formula.outputs.iter().map(|&id| b.current(id)).collect(),
        _ => {
            let missing = || Error::unsupported("predicting with this model", "it has no output that looks like logits");
            vec![logits::of(&b, graph, anatomy.head.as_ref().ok_or_else(missing)?)]
        }
    };
    let mask = anatomy.inputs.attention_mask.map(|id| b.expr(id)).filter(|mask| mask.rank() == 2);
    let read = if let Objective::Formula(formula) = objective { formula.pooled(given, mask) } else { given };
    b.clear_outputs();
    // Of a vocabulary, evaluations keep no logits.
    let names = if reads == Reads::Vocabulary { &["logits"] } else { reads.names() };
    for (name, value) in names.iter().zip(read) {
        b.output(name, value.cast(DType::F32));
    }
    without_unread_inputs(&b.finish()?)
}
