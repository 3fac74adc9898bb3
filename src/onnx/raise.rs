//! Old forms of operators to those of opset 18.

use std::sync::Arc;

use super::forms;
use super::inline::inline_functions;
use super::older::Old;
use crate::error::{Error, Result};
use crate::ir::{Attr, Builder, DIALECT, Graph, Node, NodeId, ValueId};

/// The oldest opset whose operators are understood: broadcasting has been as in numpy since then.
const OLDEST: i64 = 7;
/// The version of the file format that came with opset 18's time; initializers need not be inputs.
const IR_VERSION: i64 = 8;

/// The same graph with every operator in the form it has had since opset 18; in a graph of opset 18 or later they stay as they are, newer
/// ones included. Constants that the file lists among its inputs, as older exporters do, are constants.
///
/// Values keep their ids and names, and what is known of them; nodes do not. Model-local functions are inlined first where there
/// are any, because their bodies are in old forms too; then ids change (see [`inline_functions`]).
///
/// # Errors
/// If the opset is older than 7, or a node has no form in opset 18.
pub fn raise(graph: &Graph) -> Result<Graph> {
    let graph = &without_optional_inputs(graph)?;
    let opset = graph.model().version_of("").unwrap_or(DIALECT);
    if opset >= DIALECT && graph.model().version_of("").is_some() && graph.model().ir_version >= IR_VERSION {
        return Ok(graph.clone());
    }
    if opset < OLDEST {
        let error = Error::unsupported(format!("opset {opset}"), format!("operators are understood from opset {OLDEST} on"));
        return Err(error.with_hint("export the model again at opset 18, or convert it with onnx.version_converter"));
    }
    raised(&inline_functions(graph)?, opset)
}

/// The same graph, where what callers may feed but need not is what it is by default.
fn without_optional_inputs(graph: &Graph) -> Result<Graph> {
    let optional: Vec<ValueId> = graph.inputs().iter().copied().filter(|&id| graph.initializer(id).is_some()).collect();
    if optional.is_empty() {
        return Ok(graph.clone());
    }
    let builder = Builder::on(graph);
    for id in optional {
        builder.fix_input(builder.expr(id));
    }
    builder.infer_again();
    builder.finish_whole()
}

/// A graph, or a body of one, raised.
fn raised(graph: &Graph, opset: i64) -> Result<Graph> {
    let builder = Builder::on(graph);
    let mut model = graph.model().clone().with_opset("", opset.max(DIALECT));
    model.ir_version = model.ir_version.max(IR_VERSION);
    builder.set_model(model);
    for (id, node) in graph.node_ids() {
        let Some(output) = node.writes().next() else { continue };
        let new = form(&builder, graph, id, opset)?;
        if let Some(new) = new {
            builder.replace_node(output, new);
        }
    }
    builder.finish_whole()
}

/// The new form of a node, unless it stays as it is.
fn form(builder: &Builder, graph: &Graph, id: NodeId, opset: i64) -> Result<Option<Node>> {
    let node = graph.node(id);
    let row = forms::TABLE.iter().find(|(op, before, _)| *op == &*node.op && opset < *before);
    let has_bodies = node.attrs.values().any(|attr| !attr.graphs().is_empty());
    if row.is_none() && !has_bodies {
        return Ok(None);
    }
    let mut new = node.clone();
    for attr in new.attrs.values_mut() {
        match attr {
            Attr::Graph(body) => *body = Arc::new(raised(body, opset)?),
            Attr::Graphs(bodies) => {
                *bodies = bodies.iter().map(|body| raised(body, opset).map(Arc::new)).collect::<Result<_>>()?;
            }
            _ => {}
        }
    }
    let Some((op, _, form)) = row else { return Ok(Some(new)) };
    let scope = if node.name.is_empty() { &node.op } else { &node.name };
    let old = Old { builder, graph, node, opset };
    let new =
        builder.scoped(scope, || form(&old, new)).map_err(|refusal| refusal.of(format!("{op} of opset {opset}"), graph.node_label(id)))?;
    Ok(Some(new))
}
