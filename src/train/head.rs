//! The part of a graph from the last projection's input to the logits, as something that can be written again for a few rows.
//!
//! The head is often the largest product and the logits the largest tensor of a language model. Since everything in it treats each
//! position alone, it can run on the positions that have a label, a few at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Refusal;
use crate::ir::{Attr, Builder, Expr, Node, NodeSpec, Trait, ValueId};
use crate::num;

/// A row-wise part of a graph: `logits = f(x)`, each row of the result following from the same row of `x`.
#[derive(Debug)]
pub struct Head {
    x: ValueId,
    logits: ValueId,
    nodes: Vec<Node>,
}

impl Head {
    /// The head that leaves the logits as they are: for graphs whose head is not row-wise.
    #[must_use]
    pub fn identity(logits: Expr<'_>) -> Self {
        Self { x: logits.id(), logits: logits.id(), nodes: vec![] }
    }

    /// The part between `x` and `logits`.
    ///
    /// # Errors
    /// The first node that does not treat each row alone, and why.
    pub fn between(b: &Builder, x: Expr<'_>, logits: Expr<'_>) -> Result<Self, Refusal> {
        let all = b.nodes();
        let after: BTreeSet<ValueId> = reachable(&all, [x.id()]);
        if !after.contains(&logits.id()) {
            return Err(format!("{} does not lead to {}", x.name(), logits.name()).into());
        }
        let mut wanted = BTreeSet::from([logits.id()]);
        let mut nodes: Vec<Node> = vec![];
        // Nodes that were rewired in may stand behind their readers: go back from the logits until nothing is added.
        loop {
            let before = nodes.len();
            for node in all.iter().rev() {
                let inside = node.writes().any(|id| wanted.contains(&id)) && node.reads().any(|id| after.contains(&id));
                if inside && !nodes.iter().any(|n: &Node| n.outputs == node.outputs) {
                    wanted.extend(node.reads().filter(|id| after.contains(id) && *id != x.id()));
                    nodes.push(node.clone());
                }
            }
            if nodes.len() == before {
                break;
            }
        }
        for node in &mut nodes {
            read_before_transpose(b, node);
        }
        for node in &nodes {
            row_wise(b, node, &after).map_err(|refusal| refusal.of(&*node.op, &*node.name))?;
        }
        Ok(Self { x: x.id(), logits: logits.id(), nodes: in_order(nodes) })
    }

    /// What the head works on, in the graph it was found in.
    #[must_use]
    pub fn x(&self) -> ValueId {
        self.x
    }

    /// Values from outside the head that it reads: weights, biases, adapters.
    #[must_use]
    pub fn operands(&self) -> BTreeSet<ValueId> {
        let inside: BTreeSet<ValueId> = self.nodes.iter().flat_map(Node::writes).chain([self.x]).collect();
        let read = self.nodes.iter().filter(|node| &*node.op != "Reshape").flat_map(Node::reads);
        read.filter(|id| !inside.contains(id)).collect()
    }

    /// Writes the head for `x` `[rows, hidden]`: the logits `[rows, classes]`. `operand` gives the values from outside.
    pub fn write<'b>(&self, b: &'b Builder, x: Expr<'b>, operand: impl Fn(ValueId) -> Expr<'b>) -> Expr<'b> {
        let mut written: BTreeMap<ValueId, Expr<'b>> = BTreeMap::from([(self.x, x)]);
        for node in &self.nodes {
            let of = |id: ValueId| written.get(&id).copied().unwrap_or_else(|| operand(id));
            let Some(output) = node.output(0) else { continue };
            let value = if &*node.op == "Reshape" {
                // Rows stay rows: only leading axes were joined or parted.
                node.input(0).map_or(x, of)
            } else {
                let spec = NodeSpec {
                    op: node.op.clone(),
                    inputs: node.inputs.iter().map(|id| id.map(|id| of(id).id())).collect(),
                    outputs: vec![Some("".into())],
                    attrs: node.attrs.clone(),
                    ..NodeSpec::default()
                };
                b.node(spec)[0].unwrap_or(x)
            };
            written.insert(output, value);
        }
        written.get(&self.logits).copied().unwrap_or(x)
    }
}

/// A product with a transposed constant as a `Gemm` that transposes while it reads: the matrix of a tied head is not copied in every step.
fn read_before_transpose(b: &Builder, node: &mut Node) {
    let turned = node.input(1).filter(|_| &*node.op == "MatMul").and_then(|weight| b.maker(weight));
    let Some(turned) = turned.filter(|maker| &*maker.op == "Transpose" && maker.ints("perm").is_none_or(|perm| perm == [1, 0])) else {
        return;
    };
    let stored = turned.input(0).filter(|&id| b.is_constant(id) && b.fact(id).rank() == Some(2));
    if let Some(stored) = stored {
        node.op = "Gemm".into();
        node.inputs[1] = Some(stored);
        node.attrs.insert("transB".into(), Attr::Int(1));
    }
}

/// Every value that follows from `from`, itself among them.
pub fn reachable(nodes: &[Node], from: impl IntoIterator<Item = ValueId>) -> BTreeSet<ValueId> {
    let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for id in node.reads() {
            readers.entry(id).or_default().push(i);
        }
    }
    let mut reached = BTreeSet::new();
    let mut queue: Vec<ValueId> = from.into_iter().collect();
    while let Some(id) = queue.pop() {
        if reached.insert(id) {
            queue.extend(readers.get(&id).into_iter().flatten().flat_map(|&i| nodes[i].writes()));
        }
    }
    reached
}

fn row_wise(b: &Builder, node: &Node, inside: &BTreeSet<ValueId>) -> Result<(), Refusal> {
    let dims = |id: ValueId| b.fact(id).shape;
    let is_inside = |i: usize| node.input(i).is_some_and(|id| inside.contains(&id));
    // An operand from outside must look the same to every row.
    let shared = |id: ValueId| dims(id).is_some_and(|dims| dims.iter().rev().skip(1).all(|dim| dim.as_known() == Some(1)));
    match &*node.op {
        "MatMul" | "Gemm" if !is_inside(0) || is_inside(1) || node.int("transA", 0) != 0 => Err("rows are not on the left".into()),
        "MatMul" | "Gemm" if node.input(1).and_then(dims).is_none_or(|dims| dims.len() != 2) => Err("its weight is no matrix".into()),
        "MatMul" => Ok(()),
        "Gemm" => node.input(2).is_none_or(shared).then_some(()).ok_or_else(|| "its bias differs from row to row".into()),
        "Reshape" => {
            let last = |id: Option<ValueId>| id.and_then(dims).and_then(|dims| dims.last().cloned());
            let (before, after) = (last(node.input(0)), last(node.output(0)));
            (before.is_some() && before == after).then_some(()).ok_or_else(|| "it takes rows apart".into())
        }
        "Gather" => {
            let rank = node.input(0).and_then(dims).map(|dims| num::int(dims.len()));
            let axis = node.int("axis", 0);
            let takes_columns = is_inside(0) && !is_inside(1) && (axis == -1 || rank.is_some_and(|rank| axis == rank - 1));
            let is_list = node.input(1).and_then(dims).is_some_and(|dims| dims.len() == 1);
            (takes_columns && is_list).then_some(()).ok_or_else(|| "it does not take the same columns of each row".into())
        }
        op if Trait::Elementwise.is_of(op) => {
            let differs = node.reads().find(|&id| !inside.contains(&id) && !shared(id));
            differs.map_or(Ok(()), |id| Err(format!("operand {} differs from row to row", b.name(id)).into()))
        }
        _ => Err("it is not known to treat each row alone".into()),
    }
}

/// Nodes each behind those it reads.
fn in_order(mut nodes: Vec<Node>) -> Vec<Node> {
    let mut order: Vec<Node> = vec![];
    while !nodes.is_empty() {
        let waiting: BTreeSet<ValueId> = nodes.iter().flat_map(Node::writes).collect();
        let (ready, rest): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.reads().all(|id| !waiting.contains(&id)));
        if ready.is_empty() {
            break;
        }
        order.extend(ready);
        nodes = rest;
    }
    order
}
