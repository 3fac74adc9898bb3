//! The function whose gradient a graph computes: what gradients do not pass (`Expr::without_gradient`) is held where it started.
//!
//! DoRA's norms and KTO's baseline depend on what is trained, and count as constants in the gradient, as in PEFT and TRL. Differences of the loss
//! see them move; with what is held they do not.

use std::collections::{BTreeMap, BTreeSet};

use super::head::reachable;
use crate::Result;
use crate::contract::Input;
use crate::ir::{Builder, DType, Graph, NO_GRADIENT, Node, NodeSpec, ValueId};

/// The input that what is held is computed from: the trainable vector where it started, float32 `[N]`.
pub const HELD: &str = "trainable_held";

/// The same graph with everything that gradients do not pass computed from [`HELD`]; nothing if no such thing depends on what is trained.
///
/// # Errors
/// None for a graph that was finished.
pub fn held(graph: &Graph) -> Result<Option<Graph>> {
    let Some(trainable) = graph.inputs().iter().copied().find(|&id| graph.value_name(id) == Input::Trainable.name()) else {
        return Ok(None);
    };
    let moved = reachable(graph.nodes(), [trainable]);
    let stops: Vec<&Node> = graph.nodes().iter().filter(|node| node.metadata(NO_GRADIENT).is_some()).collect();
    let stopped: Vec<ValueId> = stops.iter().filter_map(|node| node.input(0)).filter(|id| moved.contains(id)).collect();
    if stopped.is_empty() {
        return Ok(None);
    }
    let b = Builder::on(graph);
    let start = b.input(HELD, DType::F32, &b.expr(trainable).known_dims());
    let mut instead = BTreeMap::from([(trainable, start.id())]);
    let needed = behind(graph.nodes(), &stopped, &moved);
    for node in graph.nodes().iter().filter(|node| node.writes().any(|id| needed.contains(&id))) {
        let of = |id: &ValueId| instead.get(id).copied().unwrap_or(*id);
        let again = b.node(NodeSpec {
            name: "".into(),
            op: node.op.clone(),
            inputs: node.inputs.iter().map(|id| id.as_ref().map(of)).collect(),
            outputs: node.outputs.iter().map(|id| id.map(|_| "".into())).collect(),
            attrs: node.attrs.clone(),
            captures: node.captures.iter().map(of).collect(),
            ..NodeSpec::default()
        });
        instead.extend(node.outputs.iter().zip(again).filter_map(|(old, new)| Some(((*old)?, new?.id()))));
    }
    for node in stops {
        if let (Some(output), Some(new)) = (node.output(0), node.input(0).and_then(|id| instead.get(&id))) {
            b.rewire_input(output, 0, b.expr(*new));
        }
    }
    b.finish().map(Some)
}

/// Of the values that moved, those which some values are computed from, and these.
fn behind(nodes: &[Node], values: &[ValueId], moved: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let mut needed: BTreeSet<ValueId> = values.iter().copied().collect();
    for node in nodes.iter().rev() {
        if node.writes().any(|id| needed.contains(&id)) {
            needed.extend(node.reads().filter(|id| moved.contains(id)));
        }
    }
    needed
}
