//! Names for projections that an exporter left none for, from their place among the attentions, in the convention that the names that
//! are left follow.
//!
//! Optimizers rename nodes and fold weights, but keep the names of norms and biases: they tell the layers' path and the convention.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::Graph;

use super::flow::{Flow, Source};
use super::linear::Linear;
use super::walk::ValueRef;
use super::{Attention, Miss};

/// What the modules of a layer are called, behind the layer's path.
struct Convention {
    /// A part of a layer that nobody else calls so.
    sign: &'static str,
    /// The layers' path, where no name is left that tells it.
    layers: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    packed: &'static str,
    o: &'static str,
    /// First projections of the feed-forward network, in order; with a gate, the gate first.
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

/// The conventions in use, by the norms that their layers have.
const CONVENTIONS: &[Convention] = &[
    Convention {
        sign: "input_layernorm",
        layers: "model.layers",
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        packed: "self_attn.qkv_proj",
        o: "self_attn.o_proj",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
    },
    Convention {
        sign: "attention.output.LayerNorm",
        layers: "encoder.layer",
        q: "attention.self.query",
        k: "attention.self.key",
        v: "attention.self.value",
        packed: "attention.self.qkv",
        o: "attention.output.dense",
        gate: "intermediate.gate",
        up: "intermediate.dense",
        down: "output.dense",
    },
    Convention {
        sign: "sa_layer_norm",
        layers: "transformer.layer",
        q: "attention.q_lin",
        k: "attention.k_lin",
        v: "attention.v_lin",
        packed: "attention.qkv",
        o: "attention.out_lin",
        gate: "ffn.gate",
        up: "ffn.lin1",
        down: "ffn.lin2",
    },
    Convention {
        sign: "ln_1",
        layers: "transformer.h",
        q: "attn.q_proj",
        k: "attn.k_proj",
        v: "attn.v_proj",
        packed: "attn.c_attn",
        o: "attn.c_proj",
        gate: "mlp.gate",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
    },
    Convention {
        sign: "self_attn_layer_norm",
        layers: "model.decoder.layers",
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        packed: "self_attn.qkv_proj",
        o: "self_attn.out_proj",
        gate: "fc0",
        up: "fc1",
        down: "fc2",
    },
];

/// Everything that bears on the names.
pub(super) struct Evidence<'a> {
    pub(super) graph: &'a Graph,
    pub(super) linears: &'a [Linear],
    pub(super) attentions: &'a [Attention],
    pub(super) flow: &'a Flow,
    /// Every module path that is known, of whatever kind.
    pub(super) known: &'a BTreeSet<String>,
    /// The place of the head among the projections.
    pub(super) head: Option<usize>,
}

/// Fills the names that are missing, as far as roles are recognised.
pub(super) fn fill(modules: &mut [Option<String>], evidence: &Evidence<'_>, misses: &mut Vec<Miss>) {
    if modules.iter().all(Option::is_some) {
        return;
    }
    let path = layers_path(evidence.known);
    let convention = convention(evidence);
    let path = path.unwrap_or_else(|| convention.layers.to_owned());
    // Encoders with decoders have two stacks of layers: without names there is no telling what they are called.
    let is_one_stack = evidence.attentions.iter().all(|attention| !attention.cross);
    let own = if is_one_stack { evidence.attentions } else { &[] };
    for (layer, attention) in own.iter().enumerate() {
        let end = own.get(layer + 1).and_then(first).or(evidence.head).unwrap_or(modules.len());
        for (at, role) in roles(attention, end, evidence, convention) {
            modules[at].get_or_insert_with(|| format!("{path}.{layer}.{role}"));
        }
    }
    if let Some(name) = evidence.head.and_then(|head| modules.get_mut(head)) {
        // Decoders that give one row of logits for a text are Hugging Face's `..ForSequenceClassification`.
        let is_of_texts = evidence.graph.outputs().first().is_some_and(|&logits| evidence.graph.fact(logits).rank() == Some(2));
        let is_decoder = evidence.attentions.iter().any(|attention| attention.causal);
        name.get_or_insert_with(|| if is_of_texts && is_decoder { "score" } else { "lm_head" }.to_owned());
    }
    for (at, name) in modules.iter_mut().enumerate().filter(|(_, name)| name.is_none()) {
        misses.push(Miss { at: format!("projection {at}"), wanted: "a name, or a place in a layer, that tells the module".into() });
        *name = Some(format!("linear_{at}"));
    }
}

/// The first of an attention's projections.
fn first(attention: &Attention) -> Option<usize> {
    [attention.q, attention.k, attention.v].into_iter().flatten().min()
}

/// The roles of one layer's projections: those of the attention, and those after it.
fn roles(attention: &Attention, end: usize, evidence: &Evidence<'_>, names: &Convention) -> BTreeMap<usize, &'static str> {
    let mut roles = BTreeMap::new();
    match (attention.q, attention.k, attention.v) {
        (Some(q), Some(k), Some(v)) if q == k && k == v => {
            roles.insert(q, names.packed);
        }
        (q, k, v) => roles.extend([(q, names.q), (k, names.k), (v, names.v)].into_iter().filter_map(|(at, role)| Some((at?, role)))),
    }
    let Some(o) = attention.o else { return roles };
    roles.insert(o, names.o);
    let linears = evidence.linears;
    let network: Vec<usize> = (o + 1..end.min(linears.len())).filter(|at| !roles.contains_key(at)).collect();
    match network[..] {
        [a, b, down] if linears[a].x == linears[b].x => {
            let (gate, up) = if is_activated(evidence.graph, &linears[a]) { (a, b) } else { (b, a) };
            roles.extend([(gate, names.gate), (up, names.up), (down, names.down)]);
        }
        [up, down] if evidence.flow.of(linears[down].x).contains(&Source::Projection(up)) => {
            roles.extend([(up, names.up), (down, names.down)]);
        }
        _ => {}
    }
    roles
}

/// Whether a projection's output goes through something else than the product with the gate: then it is the gate.
fn is_activated(graph: &Graph, linear: &Linear) -> bool {
    ValueRef::new(graph, linear.output).readers().any(|reader| !reader.is(&["Mul"]))
}

/// What stands before the layers' numbers in the names that are known.
fn layers_path(known: &BTreeSet<String>) -> Option<String> {
    let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let mut layers: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for path in known {
        let words: Vec<&str> = path.split('.').collect();
        if let Some(at) = words.iter().position(|word| is_number(word)).filter(|&at| at > 0) {
            layers.entry(words[..at].join(".")).or_default().insert(words[at]);
        }
    }
    layers.into_iter().max_by_key(|(_, numbers)| numbers.len()).map(|(path, _)| path)
}

/// The convention that the known names show, else the one that suits the model's form.
fn convention(evidence: &Evidence<'_>) -> &'static Convention {
    let shows = |c: &&Convention| evidence.known.iter().any(|path| path.contains(c.sign));
    let by_sign = |sign: &str| CONVENTIONS.iter().find(|c| c.sign == sign).expect("signs are from the table");
    let causal = evidence.attentions.iter().any(|attention| attention.causal);
    let suitable = || by_sign(if causal { "input_layernorm" } else { "attention.output.LayerNorm" });
    CONVENTIONS.iter().find(shows).unwrap_or_else(suitable)
}
