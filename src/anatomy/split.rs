//! Decoders that were exported without the encoder whose states they look at.

use std::collections::BTreeSet;

use crate::ir::{DType, Graph, ValueId};

use super::walk::ValueRef;
use super::{Anatomy, Attention};

/// Operators that read hidden states: what stands behind one of them was computed in the graph.
const COMPUTES: &[&str] = &["Conv", "Softmax", "Gather", "Attention", "com.microsoft:MultiHeadAttention"];

/// Values that are looked at before the search gives up.
const MAX_VALUES: usize = 512;

/// What shows that the graph is the decoder of an encoder-decoder, alone: attentions whose queries come from tokens, and whose keys come from an
/// input of hidden states, or from a past that never grows.
#[must_use]
pub fn evidence(graph: &Graph, anatomy: &Anatomy) -> Option<String> {
    let (attention, given) = anatomy.attentions.iter().find_map(|attention| Some((attention, given_keys(graph, anatomy, attention)?)))?;
    let place = if attention.module.is_empty() { "an attention".to_owned() } else { attention.module.clone() };
    Some(format!("{place} looks at {}, an input that an encoder outside this graph computes", graph.value_name(given)))
}

/// The input of floats that an attention's keys come from, if nothing but projections stands in between, and its queries come from tokens.
fn given_keys(graph: &Graph, anatomy: &Anatomy, attention: &Attention) -> Option<ValueId> {
    let is_of_itself = attention.q.is_some() && attention.k.is_some() && !attention.cross;
    let keys = origins(graph, attention.keys.value).filter(|_| !is_of_itself)?;
    let &[only] = &keys.into_iter().collect::<Vec<_>>()[..] else { return None };
    let is_states = graph.fact(only).dtype.is_some_and(DType::is_float) && graph.fact(only).rank().is_some_and(|rank| rank >= 3);
    let reads_tokens = anatomy.token_embedding.is_some() || graph.data_inputs().any(|id| is_tokens(graph, id));
    let is_own = anatomy.inputs.main == Some(only);
    (is_states && reads_tokens && !is_own).then_some(only)
}

fn is_tokens(graph: &Graph, id: ValueId) -> bool {
    let fact = graph.fact(id);
    fact.rank() == Some(2) && fact.dtype.is_some_and(|dtype| !dtype.is_float())
}

/// The data inputs that a value's numbers come from; `None` if something was computed on the way that only a network computes.
fn origins(graph: &Graph, value: ValueId) -> Option<BTreeSet<ValueId>> {
    let (mut seen, mut queue, mut found) = (BTreeSet::new(), vec![value], BTreeSet::new());
    while let Some(id) = queue.pop() {
        if !seen.insert(id) || graph.initializer(id).is_some() {
            continue;
        }
        if seen.len() > MAX_VALUES {
            return None;
        }
        if graph.is_input(id) {
            found.insert(id);
            continue;
        }
        let Some(node) = ValueRef::new(graph, id).producer() else { continue };
        let is_choice_of_parts = node.is(&["Gather"]) && !node.input(0).is_ok_and(ValueRef::is_constant);
        if node.is(COMPUTES) && !is_choice_of_parts {
            return None;
        }
        queue.extend(node.data_inputs().map(ValueRef::id));
    }
    Some(found)
}
