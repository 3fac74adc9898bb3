//! Gives projections and tables their modules.

use std::collections::BTreeMap;

use crate::ir::{Graph, ValueId};

use super::embedding::Table;
use super::linear::Linear;
use super::names::{Evidence, Namer, is_another_call, owned};
use super::{Embedding, Layout, Miss, Projection};

/// Projections and tables with names, each list in the order of execution.
pub(super) struct Named {
    pub(super) projections: Vec<Projection>,
    pub(super) embeddings: Vec<Embedding>,
    pub(super) namer: Namer,
    pub(super) misses: Vec<Miss>,
}

/// Names everything there is evidence for; the others get a number.
pub(super) fn name(graph: &Graph, linears: Vec<Linear>, tables: &[Table]) -> Named {
    let of_linear = |l: &Linear| {
        let nodes: Vec<_> = std::iter::once(l.node).chain(l.bias_node).collect();
        Evidence::of(graph, &nodes, &[Some(l.weight.value), l.bias])
    };
    let hints: Vec<Evidence> = linears.iter().map(of_linear).collect();
    let table_hints: Vec<Evidence> = tables.iter().map(|t| Evidence::of(graph, &[t.node], &[Some(t.weight)])).collect();
    let namer = Namer::learn(graph, &[hints.as_slice(), &table_hints].concat(), hints.last());

    let mut misses = vec![];
    let embeddings: Vec<Embedding> = tables.iter().zip(&table_hints).map(|(table, hint)| embedding(table, namer.module(hint))).collect();
    let modules = modules(graph, &linears, &hints, &namer, &mut misses);
    let projections = linears.into_iter().zip(modules).zip(&hints).map(|((l, module), hint)| projection(graph, l, module, hint)).collect();
    Named { projections, embeddings, namer, misses }
}

fn embedding(table: &Table, module: Option<String>) -> Embedding {
    let Table { weight, indices, output, rows, hidden, .. } = *table;
    Embedding { module: module.unwrap_or_default(), weight, indices, output, rows, hidden }
}

fn projection(graph: &Graph, linear: Linear, module: String, hint: &Evidence) -> Projection {
    let Linear { x, y, output, weight, bias, in_features, out_features, .. } = linear;
    let conv1d = hint.is_class("Conv1D") || (weight.layout == Layout::InOut && keeps_its_name(graph, weight.value, &module));
    Projection { module, x, y, output, weight, bias, in_features, out_features, conv1d }
}

/// Whether the constant still has the name that PyTorch gave it. An exporter that transposes a weight gives it another, so that a weight
/// which has its name and is stored `[in, out]` was `[in, out]` in PyTorch.
fn keeps_its_name(graph: &Graph, weight: ValueId, module: &str) -> bool {
    let name = graph.value_name(weight);
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    name.ends_with(".weight") && !name.ends_with(".MatMul.weight") && owned(name).is_some_and(|o| last(&o.module) == last(module))
}

/// A module for each projection: one for all calls of a shared module, different ones for different weights.
fn modules(graph: &Graph, linears: &[Linear], hints: &[Evidence], namer: &Namer, misses: &mut Vec<Miss>) -> Vec<String> {
    let mut of_weight: BTreeMap<ValueId, String> = BTreeMap::new();
    let mut bearer: BTreeMap<String, ValueId> = BTreeMap::new();
    let mut modules = Vec::with_capacity(linears.len());
    for (at, (linear, hint)) in linears.iter().zip(hints).enumerate() {
        let weight = linear.weight.value;
        let wanted = namer.module(hint).unwrap_or_else(|| {
            misses.push(Miss { at: graph.node_label(linear.node), wanted: "a name that tells the module".into() });
            format!("linear_{at}")
        });
        let module = match of_weight.get(&weight) {
            Some(first) if is_another_call(first, &wanted) => first.clone(),
            _ => free(&bearer, wanted, weight),
        };
        bearer.insert(module.clone(), weight);
        of_weight.entry(weight).or_insert_with(|| module.clone());
        modules.push(module);
    }
    modules
}

/// The name, with a number behind it if another weight has it already.
fn free(bearer: &BTreeMap<String, ValueId>, wanted: String, weight: ValueId) -> String {
    let is_free = |name: &String| bearer.get(name).is_none_or(|&other| other == weight);
    if is_free(&wanted) {
        return wanted;
    }
    let numbers = 1..=bearer.len() + 1;
    numbers.map(|n| format!("{wanted}.{n}")).find(is_free).expect("more numbers than names that are taken")
}
