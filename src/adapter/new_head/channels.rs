//! Which axis of a value holds the features of a place: the last one behind linear layers, the second one behind convolutions.

use crate::ir::{Graph, ValueId};

/// Operators that give the features of a place on the second axis.
const SECOND: &[&str] = &[
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "MaxPool",
    "Resize",
];

/// Operators that give them on the last axis.
const LAST: &[&str] = &["Gather", "Gemm", "LayerNormalization", "MatMul", "RMSNormalization"];

/// Steps that are walked before the search gives up.
const MAX_STEPS: usize = 64;

/// The axis of features of a value of rank 3 or 4; the last one where nothing tells.
pub(super) fn axis(graph: &Graph, value: ValueId) -> Option<usize> {
    let rank = graph.fact(value).rank()?;
    Some(search(graph, value, MAX_STEPS).unwrap_or(rank.checked_sub(1)?))
}

fn search(graph: &Graph, value: ValueId, steps: usize) -> Option<usize> {
    let rank = graph.fact(value).rank()?;
    let node = graph.producer(value).filter(|_| steps > 0).map(|id| graph.node(id))?;
    let shape = |id: ValueId| graph.fact(id).shape.as_deref();
    match &*node.op {
        op if SECOND.contains(&op) => Some(1),
        op if LAST.contains(&op) => rank.checked_sub(1),
        "Transpose" => {
            let before = search(graph, node.input(0)?, steps - 1)?;
            node.ints("perm")?.iter().position(|&axis| usize::try_from(axis) == Ok(before))
        }
        "Reshape" | "Flatten" => {
            let input = node.input(0)?;
            let before = search(graph, input, steps - 1)?;
            let (old, new) = (shape(input)?, shape(value)?);
            let is_last = before + 1 == old.len() && old.last() == new.last();
            if is_last { rank.checked_sub(1) } else { (before == 1 && new.get(1) == old.get(1)).then_some(1) }
        }
        _ => node.inputs.iter().flatten().filter(|&&id| graph.fact(id).rank() == Some(rank)).find_map(|&id| search(graph, id, steps - 1)),
    }
}
