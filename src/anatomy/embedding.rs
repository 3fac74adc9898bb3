//! Embedding tables: matrices of floats, or of integers that stand for floats, whose rows are read by index.

use crate::ir::{Graph, NodeId, ValueId};

use super::walk::{Found, NodeRef};

/// A table that has no name yet.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) node: NodeId,
    pub(super) weight: ValueId,
    pub(super) indices: ValueId,
    pub(super) output: ValueId,
    pub(super) rows: i64,
    pub(super) hidden: i64,
}

/// Turns small integers into numbers.
const UNPACKS: &[&str] = &["DequantizeLinear"];

/// Every table in the order of execution.
pub(super) fn find(graph: &Graph) -> Vec<Table> {
    graph.node_ids().filter_map(|(id, _)| table(NodeRef::new(graph, id)).ok()).collect()
}

fn table(node: NodeRef<'_>) -> Found<Table> {
    if node.is(&["com.microsoft:GatherBlockQuantized"]) {
        return packed_table(node);
    }
    if !node.is(&["Gather"]) || node.node().int("axis", 0) != 0 {
        return Err(node.miss("rows read by index"));
    }
    let (read, output) = (node.input(0)?.behind(&["Identity", "Cast"]), node.output(0)?);
    let (weight, output) = match read.from(UNPACKS) {
        Ok(unpacks) => (unpacks.input(0)?, output),
        Err(_) if read.stored().is_some_and(|tensor| tensor.dtype().is_float()) => (read, output),
        // Rows that are unpacked when they were read.
        Err(_) => (read, output.into(UNPACKS)?.output(0)?),
    };
    let tensor = weight.stored().ok_or_else(|| weight.miss("a constant table"))?;
    let &[rows, hidden] = tensor.shape() else { return Err(weight.miss("a constant matrix")) };
    let length = |n: usize| i64::try_from(n).map_err(|_| weight.miss("lengths within 63 bits"));
    Ok(Table {
        node: node.id(),
        weight: weight.id(),
        indices: node.input(1)?.id(),
        output: output.id(),
        rows: length(rows)?,
        hidden: length(hidden)?,
    })
}

/// A table whose rows are packed in blocks: `data`, `indices`, scales.
fn packed_table(node: NodeRef<'_>) -> Found<Table> {
    let (weight, output) = (node.input(0)?, node.output(0)?);
    let rows = weight.stored().and_then(|tensor| tensor.shape().first().copied()).ok_or_else(|| weight.miss("a constant table"))?;
    let hidden =
        output.fact().rank().and_then(|rank| output.length(rank.checked_sub(1)?)).ok_or_else(|| output.miss("rows of known length"))?;
    Ok(Table {
        node: node.id(),
        weight: weight.id(),
        indices: node.input(1)?.id(),
        output: output.id(),
        rows: i64::try_from(rows).map_err(|_| weight.miss("lengths within 63 bits"))?,
        hidden,
    })
}
