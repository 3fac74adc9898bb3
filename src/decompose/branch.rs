//! `If` whose condition is known, replaced by the branch that runs.
//!
//! Optimum merges a decoder with a cache and one without into one graph, which the input `use_cache_branch` chooses from. Training sees
//! whole sequences, so that the one without is trained; weights stand outside of both. An adapter that stays in the graph is put into each,
//! and [`join`](super::join()) makes one graph of them again.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Replaced, take_over};
use crate::error::{Error, Place, Result};
use crate::ir::{Attr, Builder, Expr, Graph, Node, NodeSpec, Tensor, ValueId};

/// The input that asks for the branch with a cache.
pub(super) const WITH_CACHE: &str = "use_cache_branch";

/// What names of inputs that are a cache begin with.
const PAST: &str = "past";

/// One of the two decoders of a merged export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// The one that reads whole sequences.
    WithoutCache,
    /// The one that reads a cache and the tokens behind it.
    WithCache,
}

/// The same graph without a choice that is known beforehand: conditions that are constant, and that between decoders with and without
/// a cache, which falls on `decoder`. Values that are not inside branches keep their ids.
///
/// # Errors
/// A branch whose nodes do not go together.
pub fn specialise(graph: &Graph, decoder: Decoder) -> Result<Graph> {
    let mut graph = graph.clone();
    // A branch may have choices of its own.
    loop {
        let b = Builder::on(&graph);
        let mut replaced = vec![];
        for node in graph.nodes().iter().filter(|node| &*node.op == "If") {
            if let Some((body, captures)) = chosen(&graph, node, decoder) {
                replaced.extend(inlined(&b, node, body, captures));
            }
        }
        if replaced.is_empty() {
            return Ok(graph);
        }
        take_over(&b, &graph, replaced);
        if let Some(input) = b.input_named(WITH_CACHE) {
            let shape = graph.fact(input.id()).known_shape().unwrap_or_default();
            // A condition is one truth, whatever number of axes it has.
            if shape.iter().any(|&length| length != 1) {
                let shape = format!("{shape:?}");
                return Err(Error::mismatch("shape", "one element", shape).at(Place::Tensor(WITH_CACHE.to_owned())));
            }
            let truth = if decoder == Decoder::WithCache { 1.0 } else { 0.0 };
            let truth = Tensor::from_f64(crate::ir::DType::Bool, &vec![1; shape.len()], &[truth])?;
            b.remove_input(input, b.constant(truth));
        }
        graph = b.finish()?;
    }
}

/// The same graph without the inputs of a cache that nothing reads, as those of the branch that was not chosen: who feeds them would
/// believe that they count.
///
/// # Errors
/// As [`specialise`].
pub fn without_unread_cache(graph: &Graph) -> Result<Graph> {
    let is_unread = |id: &ValueId| graph.uses(*id).is_empty() && !graph.is_output(*id) && graph.value_name(*id).starts_with(PAST);
    let unread: Vec<ValueId> = graph.inputs().iter().copied().filter(is_unread).collect();
    if unread.is_empty() {
        return Ok(graph.clone());
    }
    let b = Builder::on(graph);
    for id in unread {
        let input = b.expr(id);
        b.remove_input(input, b.number(0.0, input.dtype()));
    }
    b.finish()
}

/// Whether an input of this name belongs to a cache: what was computed before, or the choice whether it is read.
#[must_use]
pub fn is_of_cache(name: &str) -> bool {
    name.starts_with(PAST) || name == WITH_CACHE
}

/// The branch that runs, and the values of the graph around it that it reads.
fn chosen<'g>(graph: &'g Graph, node: &'g Node, decoder: Decoder) -> Option<(&'g Arc<Graph>, &'g [ValueId])> {
    let condition = node.input(0)?;
    let known = || graph.fact(condition).known_contents()?.first().map(|&truth| truth != 0);
    let stored = || graph.constant(condition)?.to_i64()?.first().map(|&truth| truth != 0);
    let runs = if is_cache_choice(graph, condition) { decoder == Decoder::WithCache } else { stored().or_else(known)? };
    let wanted = if runs { "then_branch" } else { "else_branch" };
    let mut start = 0;
    for (name, attr) in &node.attrs {
        for body in attr.graphs() {
            let end = start + body.captured().len();
            if &**name == wanted {
                return Some((body, node.captures.get(start..end)?));
            }
            start = end;
        }
    }
    None
}

fn is_cache_choice(graph: &Graph, condition: ValueId) -> bool {
    graph.is_input(condition) && graph.value_name(condition) == WITH_CACHE
}

/// Writes a branch's nodes into the graph around it.
fn inlined<'g>(b: &'g Builder, node: &Node, body: &Graph, captures: &[ValueId]) -> Replaced<'g> {
    let mut outer: HashMap<ValueId, Expr<'g>> = body.captured().iter().copied().zip(captures.iter().map(|&id| b.expr(id))).collect();
    for (id, tensor) in body.initializers() {
        outer.insert(id, b.initializer(body.value_name(id), tensor.clone()));
    }
    copy_nodes(b, body, &mut outer);
    let pairs = node.outputs.iter().zip(body.outputs());
    pairs.filter_map(|(old, new)| Some((b.expr((*old)?), *outer.get(new)?))).collect()
}

/// Copies a graph's nodes into another one. `here` maps the values that they read, and receives those that they write.
pub(super) fn copy_nodes<'g>(b: &'g Builder, graph: &Graph, here: &mut HashMap<ValueId, Expr<'g>>) {
    for node in graph.nodes() {
        let moved = |id: ValueId| here.get(&id).map(|value| value.id());
        let spec = NodeSpec {
            name: Arc::clone(&node.name),
            op: Arc::clone(&node.op),
            inputs: node.inputs.iter().map(|id| id.and_then(moved)).collect(),
            outputs: node.outputs.iter().map(|id| id.map(|id| graph.value_name(id).into())).collect(),
            attrs: node.attrs.iter().map(|(name, attr): (&Arc<str>, &Attr)| (Arc::clone(name), attr.clone())).collect(),
            captures: node.captures.iter().filter_map(|&id| moved(id)).collect(),
            metadata: node.metadata.clone(),
            extra: node.extra.clone(),
        };
        for (made, id) in b.node(spec).into_iter().zip(&node.outputs) {
            here.extend(made.zip(*id).map(|(made, id)| (id, made)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, ModelInfo};

    #[test]
    fn a_choice_between_decoders_that_is_more_than_one_truth_is_refused() {
        for (length, is_one) in [(1, true), (2, false), (1 << 40, false)] {
            let b = Builder::new(ModelInfo::dialect());
            let condition = b.input(WITH_CACHE, DType::Bool, &[Dim::known(length)]);
            let x = b.input("x", DType::F32, &[Dim::symbol("n")]);
            let branch = |name: &str, op: &str| {
                let body = b.body(name);
                let y = body.op(op, &[body.capture(x)], &[]);
                body.output(&format!("{name}_y"), y);
                body.finish_body().expect("a body")
            };
            let bodies = vec![("then_branch", branch("a", "Exp")), ("else_branch", branch("b", "Neg"))];
            let y = b.op_with_bodies("If", &[Some(condition)], bodies, 1);
            b.output("y", y[0]);
            let found = specialise(&b.finish().expect("a graph"), Decoder::WithoutCache);
            assert_eq!(found.is_ok(), is_one, "{length}");
        }
    }
}
