//! `If` whose condition is known, replaced by the branch that runs.
//!
//! Optimum merges a decoder with a cache and one without into one graph, which the input `use_cache_branch` chooses from. Training sees
//! whole sequences, so that the one without is trained; weights stand outside of both.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Replaced, take_over};
use crate::error::{Error, Place, Result};
use crate::ir::{Attr, Builder, Expr, Graph, Node, NodeSpec, Tensor, ValueId};

/// The input that asks for the branch with a cache.
const WITH_CACHE: &str = "use_cache_branch";

/// What names of inputs that are a cache begin with.
const PAST: &str = "past";

/// The same graph without a choice that is known beforehand: conditions that are constant, and that between decoders with and without
/// a cache, which falls on the one without. Values that are not inside branches keep their ids.
///
/// # Errors
/// A branch whose nodes do not go together.
pub fn specialise(graph: &Graph) -> Result<Graph> {
    let mut graph = graph.clone();
    // A branch may have choices of its own.
    loop {
        let b = Builder::on(&graph);
        let mut replaced = vec![];
        for node in graph.nodes().iter().filter(|node| &*node.op == "If") {
            if let Some((body, captures)) = chosen(&graph, node) {
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
            let none = Tensor::from_f64(crate::ir::DType::Bool, &vec![1; shape.len()], &[0.0])?;
            b.remove_input(input, b.constant(none));
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
fn chosen<'g>(graph: &'g Graph, node: &'g Node) -> Option<(&'g Arc<Graph>, &'g [ValueId])> {
    let condition = node.input(0)?;
    let known = || graph.fact(condition).known_contents()?.first().map(|&truth| truth != 0);
    let stored = || graph.constant(condition)?.to_i64()?.first().map(|&truth| truth != 0);
    let runs = if is_cache_choice(graph, condition) { false } else { stored().or_else(known)? };
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
    let moved = |outer: &HashMap<ValueId, Expr<'g>>, id: ValueId| outer.get(&id).map(|value| value.id());
    for inner in body.nodes() {
        let spec = NodeSpec {
            name: Arc::clone(&inner.name),
            op: Arc::clone(&inner.op),
            inputs: inner.inputs.iter().map(|id| id.and_then(|id| moved(&outer, id))).collect(),
            outputs: inner.outputs.iter().map(|id| id.map(|id| body.value_name(id).into())).collect(),
            attrs: inner.attrs.iter().map(|(name, attr): (&Arc<str>, &Attr)| (Arc::clone(name), attr.clone())).collect(),
            captures: inner.captures.iter().filter_map(|&id| moved(&outer, id)).collect(),
            metadata: inner.metadata.clone(),
            extra: inner.extra.clone(),
        };
        for (made, id) in b.node(spec).into_iter().zip(&inner.outputs) {
            outer.extend(made.zip(*id).map(|(made, id)| (id, made)));
        }
    }
    let pairs = node.outputs.iter().zip(body.outputs());
    pairs.filter_map(|(old, new)| Some((b.expr((*old)?), *outer.get(new)?))).collect()
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
            let found = specialise(&b.finish().expect("a graph"));
            assert_eq!(found.is_ok(), is_one, "{length}");
        }
    }
}
