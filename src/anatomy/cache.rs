//! Key-value caches: inputs with the past, outputs with the present.

use std::collections::BTreeMap;

use crate::ir::{Graph, ValueId};

use super::walk::ValueRef;
use super::{Anatomy, Attention, CachePart, CacheSlot};

impl Anatomy {
    /// Inputs with a past that a graph reads: those of a decoder that was merged with one without a cache are not.
    pub fn past<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = ValueId> + 'a {
        self.cache.iter().map(|slot| slot.past).filter(|&past| !graph.uses(past).is_empty())
    }
}

/// The slots, layer by layer, keys first. Found by name (`past_key_values.0.key`), else by the concatenation with a graph's input.
pub(super) fn find(graph: &Graph, attentions: &[Attention]) -> Vec<CacheSlot> {
    let mut found = by_name(graph);
    if found.is_empty() {
        found = by_structure(graph, attentions);
    }
    found.sort_by_key(|slot| (slot.layer, slot.part == CachePart::Value));
    found
}

/// What a cache's name says beside being one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    layer: usize,
    is_value: bool,
    /// Whether it is the cache of the decoder's look at the encoder.
    of_encoder: bool,
}

fn by_name(graph: &Graph) -> Vec<CacheSlot> {
    let outputs = graph.outputs().iter().filter_map(|&id| Some((label(graph.value_name(id), "present")?, id)));
    let presents: BTreeMap<Label, ValueId> = outputs.collect();
    let slot = |past: ValueId| {
        let label = label(graph.value_name(past), "past")?;
        let part = if label.is_value { CachePart::Value } else { CachePart::Key };
        Some(CacheSlot { layer: label.layer, part, past, present: presents.get(&label).copied() })
    };
    graph.data_inputs().filter_map(slot).collect()
}

/// `past_key_values.3.key`, `past.3.value`, `present.3.encoder.value`, `past_key_3`
fn label(name: &str, kind: &str) -> Option<Label> {
    let rest = name.strip_prefix(kind)?;
    let words: Vec<&str> = rest.split(['.', '_']).filter(|word| !word.is_empty() && *word != "values").collect();
    let layer = words.iter().rev().find_map(|word| word.parse().ok())?;
    // `past_key_values.0.value`: the first `key` belongs to the name of the whole cache.
    let part = words.iter().rev().find(|word| ["key", "value"].contains(word))?;
    Some(Label { layer, is_value: *part == "value", of_encoder: words.contains(&"encoder") })
}

fn by_structure(graph: &Graph, attentions: &[Attention]) -> Vec<CacheSlot> {
    let slot = |layer: usize, present: ValueId, part: CachePart| {
        let concat = ValueRef::new(graph, present).from(&["Concat"]).ok()?;
        let past = concat.input(0).ok()?.id();
        let is_input = graph.data_inputs().any(|id| id == past);
        is_input.then(|| CacheSlot { layer, part, past, present: graph.is_output(present).then_some(present) })
    };
    let of_layer = |(layer, attention): (usize, &Attention)| {
        [slot(layer, attention.key.value, CachePart::Key), slot(layer, attention.value.value, CachePart::Value)]
    };
    attentions.iter().enumerate().flat_map(of_layer).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_layer_and_part() {
        let rows = [
            ("past_key_values.3.key", "past", Some((3, false))),
            ("past_key_values.0.value", "past", Some((0, true))),
            ("past.11.value", "past", Some((11, true))),
            ("present.2.key", "present", Some((2, false))),
            ("past_value_self_4", "past", Some((4, true))),
            ("input_ids", "past", None),
        ];
        for (name, kind, expected) in rows {
            assert_eq!(label(name, kind).map(|l| (l.layer, l.is_value)), expected, "{name}");
        }
    }
}
