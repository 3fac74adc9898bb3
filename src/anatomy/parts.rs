//! Queries, keys and values that an exporter or an optimizer packed into one product, taken apart into the projections of the original
//! model.
//!
//! ```text
//! x → MatMul [W of q | k | v] → [Add bias] → Split → q, k, v
//! ```
//!
//! Models that have one such projection themselves (GPT-2's `c_attn`) keep it.

use crate::ir::Graph;

use super::linear::Linear;
use super::names::Evidence;
use super::walk::ValueRef;

/// The parts in the order of packing, as Hugging Face calls them.
const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
/// What ONNX Runtime GenAI's builder calls the whole.
const PACKED: &str = "qkv_proj";
/// A norm of models that pack queries, keys and values themselves.
const PACKING_MODELS: &str = ".ln_1.";

/// The projections, each packed one in the place of which stand its parts.
pub(super) fn split(graph: &Graph, linears: Vec<Linear>) -> Vec<Linear> {
    let packs_itself = graph.initializers().any(|(id, _)| graph.value_name(id).contains(PACKING_MODELS));
    let mut all = Vec::with_capacity(linears.len());
    for linear in linears {
        match parts(graph, &linear, packs_itself) {
            Some(parts) => all.extend(parts),
            None => all.push(linear),
        }
    }
    all
}

fn parts(graph: &Graph, linear: &Linear, packs_itself: bool) -> Option<Vec<Linear>> {
    let split = ValueRef::new(graph, linear.output).into(&["Split"]).ok()?;
    let is_last = split.node().int("axis", 0) == -1 || usize::try_from(split.node().int("axis", 0)).ok() == last_axis(split.input(0).ok()?);
    let outputs: Vec<_> = split.node().writes().collect();
    if !is_last || outputs.len() != PARTS.len() || !is_packed(graph, linear, packs_itself) {
        return None;
    }
    let mut start = 0;
    let mut all = vec![];
    for (output, name) in outputs.into_iter().zip(PARTS) {
        let value = ValueRef::new(graph, output);
        let length = value.length(last_axis(value)?)?;
        let mut part = Linear { y: output, output, out_features: length, part_name: Some(name), ..linear.clone() };
        part.weight.part = Some(start..start + length);
        start += length;
        all.push(part);
    }
    (start == linear.out_features).then_some(all)
}

fn last_axis(value: ValueRef<'_>) -> Option<usize> {
    value.fact().rank()?.checked_sub(1)
}

/// Whether the exporter's own words, or their absence, say that it packed the projection.
fn is_packed(graph: &Graph, linear: &Linear, packs_itself: bool) -> bool {
    let nodes: Vec<_> = std::iter::once(linear.node).chain(linear.bias_node).collect();
    let evidence = Evidence::of(graph, &nodes, &[Some(linear.weight.value), linear.bias]);
    match evidence.last_word() {
        None => !packs_itself,
        Some(word) => word == PACKED,
    }
}
