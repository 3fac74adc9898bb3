//! Where positions are read: rows of learned tables, angles of rotations.
//!
//! ```text
//! positions → Gather in a table of positions
//! positions → Cast → Mul | MatMul with frequencies → .. → Cos, Sin
//! ```

use std::collections::BTreeSet;

use crate::ir::{DType, Graph, ValueId};

use super::causal::Causal;
use super::walk::{NodeRef, ValueRef};
use super::{Embedding, PositionUse};

/// Operators between positions and the cosine of their angles.
const ANGLES: &[&str] = &[
    "Cast",
    "Concat",
    "Einsum",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "MatMul",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Operators that rotate by themselves, and the input with the positions.
const ROTATIONS: &[(&str, usize)] = &[("com.microsoft:RotaryEmbedding", 1), ("RotaryEmbedding", 3)];

/// Every place where a position is read, but for looking up tokens, in the order of execution.
pub(super) fn find(graph: &Graph, causal: &Causal, tokens: Option<&Embedding>) -> Vec<PositionUse> {
    let mut found = BTreeSet::new();
    for (id, _) in graph.node_ids() {
        let node = NodeRef::new(graph, id);
        let Ok(output) = node.output(0) else { continue };
        if Some(output.id()) == tokens.map(|table| table.output) {
            continue;
        }
        if is_lookup(node, causal) {
            found.insert((output.id(), 1));
        }
        if node.is(&["Cos", "Sin"]) {
            found.extend(node.input(0).map(behind_angles).unwrap_or_default());
        }
        let rotation = ROTATIONS.iter().find(|(op, _)| *op == node.op());
        found.extend(rotation.filter(|(_, input)| node.input(*input).is_ok()).map(|&(_, input)| (output.id(), input)));
    }
    found.into_iter().map(|(output, input)| PositionUse { output, input }).collect()
}

/// Whether a node reads rows of a stored table of numbers, or of the small integers that stand for them, by positions. GPT-J repeats the positions for every number of the row, and
/// torch's exporter writes an index of rows as `GatherND`.
fn is_lookup(node: NodeRef<'_>, causal: &Causal) -> bool {
    let (Ok(table), Ok(indices)) = (node.input(0), node.input(1)) else { return false };
    let stored = table.behind(&["DequantizeLinear"]);
    let is_numbers = |dtype: DType| dtype.is_float() || matches!(dtype, DType::I8 | DType::U8 | DType::I4 | DType::U4);
    (node.is(&["GatherElements", "GatherND", "com.microsoft:GatherBlockQuantized"])
        || (node.is(&["Gather"]) && node.node().int("axis", 0) == 0))
        && stored.is_constant()
        && stored.fact().rank().is_some_and(|rank| rank >= 2)
        && stored.fact().dtype.is_some_and(is_numbers)
        && causal.is_position(indices.id())
}

/// The inputs of nodes where whole numbers become the angles that `value` is.
fn behind_angles(value: ValueRef<'_>) -> Vec<(ValueId, usize)> {
    let (mut found, mut seen, mut queue) = (vec![], BTreeSet::new(), vec![value]);
    while let Some(at) = queue.pop() {
        let Some(node) = at.producer().filter(|node| node.is(ANGLES) && seen.insert(node.id())) else { continue };
        for (place, input) in node.node().inputs.iter().enumerate().filter_map(|(place, id)| Some((place, (*id)?))) {
            let input = ValueRef::new(node.graph(), input);
            let is_whole = input.fact().dtype.is_some_and(|dtype| matches!(dtype, DType::I64 | DType::I32));
            let is_counted = input.producer().is_some_and(|before| before.is(&["Range"]));
            if (node.is(&["Cast"]) && is_whole) || (is_counted && !is_whole) {
                found.push((at.id(), place));
            } else if !input.is_constant() && !is_whole {
                queue.push(input);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim, Expr, ModelInfo, Tensor};

    type Write = for<'g> fn(Expr<'g>) -> Expr<'g>;

    /// Angles `[seq, 2]` on their way to the cosine.
    const CASES: &[(&str, Write)] = &[
        ("as they are", |angles| angles),
        ("each of them twice, as Cohere has it", |angles| angles.unsqueeze(&[2]).expand(angles.b().ints(&[1, 1, 2])).reshape(&[-1, 4])),
        ("each of them twice, chosen by places", |angles| {
            let twice = angles.t().unsqueeze(&[1]);
            let places = Tensor::from_i64(&[4, 2], &[0, 0, 0, 0, 1, 0, 1, 0]);
            angles.b().op("GatherND", &[twice, angles.b().constant(places)], &[])
        }),
    ];

    #[test]
    fn positions_are_found_at_tables_of_integers() {
        for dequantises_first in [false, true] {
            let b = Builder::new(ModelInfo::dialect());
            let positions = b.input("position_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let table = b.initializer("table", Tensor::from_f64(DType::I8, &[8, 4], &[1.0; 32]).expect("small integers"));
            let dequantised = |x: Expr<'_>| x.b().op("DequantizeLinear", &[x, x.b().number(0.5, DType::F32)], &[]).id();
            let stored = if dequantises_first { b.expr(dequantised(table)) } else { table };
            let rows = stored.gather(positions, 0).id();
            b.output("rows", if dequantises_first { b.expr(rows) } else { b.expr(dequantised(b.expr(rows))) });
            let graph = b.finish().expect("a valid graph");
            assert_eq!(find(&graph, &Causal::find(&graph), None), [PositionUse { output: rows, input: 1 }], "{dequantises_first}");
        }
    }

    #[test]
    fn positions_are_found_behind_angles() {
        for (what, write) in CASES {
            let b = Builder::new(ModelInfo::dialect());
            let positions = b.input("position_ids", DType::I64, &[Dim::symbol("seq")]);
            let cast = positions.cast(DType::F32);
            let frequencies = b.initializer("frequencies", Tensor::from_f32(&[1, 2], &[1.0, 0.1]));
            b.output("cos", b.op("Cos", &[write(cast.unsqueeze(&[1]).matmul(frequencies))], &[]));
            let cast = cast.id();
            let graph = b.finish().expect("a valid graph");
            assert_eq!(find(&graph, &Causal::find(&graph), None), [PositionUse { output: cast, input: 0 }], "{what}");
        }
    }
}
