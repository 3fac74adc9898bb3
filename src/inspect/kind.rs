//! What a graph is that is no transformer.

use std::collections::BTreeMap;

use crate::ir::{Attr, Graph, infer};

/// Kinds of models, each with the operators that tell it; the first that has one of them is it.
const KINDS: &[(&str, &[&str])] = &[
    ("a convolutional network", &["Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "com.microsoft:FusedConv"]),
    ("a recurrent network", &["LSTM", "GRU", "RNN"]),
];

/// Operators that are named at most.
const NAMED: usize = 4;

/// A graph without projections and attentions in a few words: `a convolutional network (53 x Conv, 49 x Relu, ..)`.
pub(super) fn kind(graph: &Graph) -> String {
    let mut counts = BTreeMap::new();
    count(graph, &mut counts);
    let mut commonest: Vec<(&str, usize)> = counts.iter().map(|(op, count)| (*op, *count)).collect();
    commonest.sort_by_key(|(op, count)| (std::cmp::Reverse(*count), *op));
    let named: Vec<String> = commonest.iter().take(NAMED).map(|(op, count)| format!("{count} x {op}")).collect();
    let more = if commonest.len() > NAMED { ", .." } else { "" };
    let told = KINDS.iter().find(|(_, ops)| ops.iter().any(|op| counts.contains_key(op))).map(|(kind, _)| *kind);
    let classical = counts.keys().any(|op| op.starts_with("ai.onnx.ml:")).then_some("a classical model");
    match (told.or(classical), named.is_empty()) {
        (_, true) => "the graph has no nodes".to_owned(),
        (Some(kind), _) => format!("{kind} ({}{more})", named.join(", ")),
        (None, _) => format!("a graph of {}{more}", named.join(", ")),
    }
}

/// The operators of a graph and its bodies that nothing is known of here: neither their types nor their gradients.
pub(super) fn unknown_operators(graph: &Graph) -> Vec<String> {
    let mut counts = BTreeMap::new();
    count(graph, &mut counts);
    counts.keys().filter(|op| !infer::is_known(op)).map(|op| (*op).to_owned()).collect()
}

fn count<'g>(graph: &'g Graph, counts: &mut BTreeMap<&'g str, usize>) {
    for node in graph.nodes() {
        *counts.entry(&node.op).or_default() += 1;
        node.attrs.values().flat_map(Attr::graphs).for_each(|body| count(body, counts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn kinds_are_told_by_their_operators() {
        let cases: &[(&[&str], &str, &[&str])] = &[
            (&[], "the graph has no nodes", &[]),
            (&["Relu", "Tanh", "Exp"], "a graph of 1 x Exp, 1 x Relu, 1 x Tanh", &[]),
            (&["ai.onnx.ml:Normalizer"], "a classical model (1 x ai.onnx.ml:Normalizer)", &[]),
            (&["LSTM", "acme:Gate"], "a recurrent network (1 x LSTM, 1 x acme:Gate)", &["acme:Gate"]),
        ];
        for (ops, expected, unknown) in cases {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::known(2), Dim::known(3), Dim::known(4)]);
            for (i, op) in ops.iter().enumerate() {
                b.output(&format!("y{i}"), b.op(op, &[x], &[]));
            }
            let graph = b.finish().expect("a valid graph");
            assert_eq!(kind(&graph), *expected);
            assert_eq!(unknown_operators(&graph), *unknown);
        }
    }
}
