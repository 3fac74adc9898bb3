//! What a prefix stands in front of: the whole model, or the decoder where there is an encoder as well (PEFT `PeftModel.get_prompt` puts a
//! prefix into the cache of the decoder's attention to itself, and into nothing of the encoder).

use std::collections::BTreeSet;

use crate::anatomy::{Anatomy, Attention, Inputs, PositionUse};
use crate::ir::{DType, Graph, ValueId};

/// Whether there is an encoder beside the decoder.
pub(crate) fn is_behind_encoder(anatomy: &Anatomy) -> bool {
    anatomy.inputs.decoder_input_ids.is_some()
}

/// The attentions of tokens with their own kind.
pub(crate) fn attentions(anatomy: &Anatomy) -> impl Iterator<Item = &Attention> {
    let has_encoder = is_behind_encoder(anatomy);
    anatomy.attentions.iter().filter(move |attention| !attention.cross && (attention.causal || !has_encoder))
}

/// The inputs.
pub(crate) fn inputs(anatomy: &Anatomy) -> Inputs {
    match anatomy.inputs.decoder_input_ids {
        None => anatomy.inputs.clone(),
        main => Inputs { main, attention_mask: None, position_ids: None, token_type_ids: None, ..anatomy.inputs.clone() },
    }
}

/// Where positions are read: everywhere but in what the decoder looks at.
pub(crate) fn positions<'a>(graph: &Graph, anatomy: &'a Anatomy) -> impl Iterator<Item = &'a PositionUse> {
    let encoder = before(graph, anatomy.attentions.iter().filter(|attention| attention.cross).map(|attention| attention.keys.value));
    anatomy.positions.iter().filter(move |place| !encoder.contains(&place.output))
}

/// The hidden states that some values are computed from, and themselves; lengths, which come from anywhere, are whole numbers.
fn before(graph: &Graph, values: impl Iterator<Item = ValueId>) -> BTreeSet<ValueId> {
    let (mut seen, mut queue): (BTreeSet<ValueId>, Vec<ValueId>) = (BTreeSet::new(), values.collect());
    while let Some(value) = queue.pop() {
        if graph.fact(value).dtype.is_some_and(DType::is_float) && seen.insert(value) {
            queue.extend(graph.producer(value).into_iter().flat_map(|node| graph.node(node).reads()));
        }
    }
    seen
}
