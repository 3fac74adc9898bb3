//! The two decoders of a merged export, each adapted by itself, in the branches of one `If` again.
//!
//! ```text
//! without ──┐                        ┌ then_branch: with
//!           ├─ If(use_cache_branch) ─┤
//! with ─────┘                        └ else_branch: without
//! ```
//! Constants that both read, and large ones, stand outside of the branches, once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::branch::{WITH_CACHE, copy_nodes};
use crate::error::{Error, Result};
use crate::ir::{Attr, Body, Builder, Expr, Graph, ModelInfo, NodeSpec, Tensor, ValueId};

/// Constants of up to this many bytes that one branch alone reads stay in it, where operators that want them constant see them.
const SMALL: usize = 1024;

/// Whether a graph chooses between a decoder with a cache and one without.
#[must_use]
pub fn is_merged_export(graph: &Graph) -> bool {
    choice(graph).is_some_and(|input| graph.uses(input).iter().any(|reader| &*graph.node(reader.node).op == "If"))
}

fn choice(graph: &Graph) -> Option<ValueId> {
    graph.data_inputs().find(|&id| graph.value_name(id) == WITH_CACHE)
}

/// One graph with the inputs and outputs of `base`, which runs `with` where `use_cache_branch` is true and `without` otherwise. Inputs with
/// default values that the two have beside are kept.
///
/// # Errors
/// Two decoders that differ in their outputs, or in the values of an input; an input that the base does not have.
pub fn join(base: &Graph, without: &Graph, with: &Graph) -> Result<Graph> {
    let condition = choice(base).ok_or_else(|| Error::not_found("input", WITH_CACHE))?;
    let b = Builder::new(model(without, with));
    b.describe(base.name(), base.extra().cloned());
    let mut outer: Outer<'_> = HashMap::new();
    for id in base.data_inputs() {
        let value = base.value(id);
        outer.insert(Arc::clone(&value.name), b.input_value(&value.name, value.fact.clone(), value.declared.clone()));
    }
    for graph in [without, with] {
        optional_inputs(&b, graph, &mut outer)?;
    }
    for (graph, other) in [(without, with), (with, without)] {
        shared(&b, graph, other, &mut outer);
    }
    let bodies = [("then_branch", "with_cache", with), ("else_branch", "without_cache", without)];
    let mut spec = NodeSpec {
        name: "use_cache_branch/If".into(),
        op: "If".into(),
        inputs: outer.get(base.value_name(condition)).map(|input| Some(input.id())).into_iter().collect(),
        outputs: base.outputs().iter().map(|&id| Some(base.value_name(id).into())).collect(),
        ..NodeSpec::default()
    };
    for (attr, name, graph) in bodies {
        let body = branch(&b, name, graph, base, &outer)?;
        spec.captures.extend(body.captures);
        spec.attrs.insert(attr.into(), Attr::Graph(Arc::new(body.graph)));
    }
    for (made, &id) in b.node(spec).into_iter().flatten().zip(base.outputs()) {
        b.output(base.value_name(id), made);
        if let Some(declared) = &base.value(id).declared {
            b.declare(made.id(), declared.clone());
        }
    }
    b.finish()
}

/// What stands outside of the branches, by name.
type Outer<'g> = HashMap<Arc<str>, Expr<'g>>;

/// What the first graph says beside its nodes, with every operator set of the two.
fn model(without: &Graph, with: &Graph) -> ModelInfo {
    let model = without.model().clone();
    let missing = with.model().opsets.iter().filter(|set| model.version_of(&set.domain).is_none());
    missing.fold(model.clone(), |model, set| model.with_opset(&set.domain, set.version))
}

/// Adds a graph's inputs with default values.
fn optional_inputs<'g>(b: &'g Builder, graph: &Graph, outer: &mut Outer<'g>) -> Result<()> {
    for (id, tensor) in graph.inputs().iter().filter_map(|&id| Some((id, graph.initializer(id)?))) {
        let name = graph.value_name(id);
        match outer.get(name) {
            None => {
                outer.insert(name.into(), b.optional_input(name, tensor.clone()));
            }
            Some(input) if b.initial(input.id()).as_ref() == Some(tensor) => {}
            Some(_) => return Err(Error::graph(format!("the two decoders give {name} different values"))),
        }
    }
    Ok(())
}

/// Adds a graph's constants that the other one has as well, and its large ones.
fn shared<'g>(b: &'g Builder, graph: &Graph, other: &Graph, outer: &mut Outer<'g>) {
    for (id, tensor) in graph.initializers().filter(|(id, _)| !graph.is_input(*id)) {
        let name = graph.value_name(id);
        let is_outside = match other.find(name) {
            Some(twin) => !other.is_input(twin) && other.initializer(twin).is_some_and(|twin| is_same(twin, tensor)),
            None => tensor.bytes().is_some_and(|bytes| bytes.len() > SMALL),
        };
        if is_outside && !outer.contains_key(name) {
            outer.insert(name.into(), b.initializer(name, tensor.clone()));
        }
    }
}

/// Whether two tensors are equal; those that are one place in a file are, unread.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    let is_one_place = a.origin().is_some() && a.origin() == b.origin() && a.dtype() == b.dtype() && a.shape() == b.shape();
    is_one_place || a == b
}

/// The branch that a graph becomes.
fn branch(b: &Builder, name: &str, graph: &Graph, base: &Graph, outer: &Outer<'_>) -> Result<Body> {
    let body = b.body(name);
    body.may_not_run();
    let mut here = HashMap::new();
    let read: BTreeSet<ValueId> = graph.nodes().iter().flat_map(crate::ir::Node::reads).chain(graph.outputs().iter().copied()).collect();
    for &id in graph.inputs().iter().filter(|id| read.contains(id)) {
        let name = graph.value_name(id);
        let input = outer.get(name).ok_or_else(|| Error::not_found("input", name))?;
        here.insert(id, body.capture(*input));
    }
    for (id, tensor) in graph.initializers().filter(|(id, _)| read.contains(id) && !graph.is_input(*id)) {
        let name = graph.value_name(id);
        let value = outer.get(name).map_or_else(|| body.initializer(name, tensor.clone()), |constant| body.capture(*constant));
        here.insert(id, value);
    }
    copy_nodes(&body, graph, &mut here);
    for &id in base.outputs() {
        let name = base.value_name(id);
        let made = graph.outputs().iter().find(|&&output| graph.value_name(output) == name).and_then(|output| here.get(output));
        body.output(name, *made.ok_or_else(|| Error::not_found("output", name))?);
    }
    body.finish_body()
}
