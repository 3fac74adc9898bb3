//! Names for projections without one. They follow from the projection's place among the attentions, and from the convention of the names that are left.
//!
//! Optimizers rename nodes and fold weights, but keep the names of norms and biases: they tell the layers' paths and the convention.
//! Where they fold the weights of one layer that is called several times, each call has a copy: it has the name of the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::Graph;

use super::flow::{Flow, Source};
use super::linear::Linear;
use super::names::Namer;
use super::walk::ValueRef;
use super::{Attention, Miss, copies};

/// What the modules of a layer are called, behind the layer's path.
struct Convention {
    /// A norm of a layer that nobody else calls so, behind the layer's path.
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
        sign: "full_layer_layer_norm",
        layers: "encoder.albert_layer_groups.0.albert_layers",
        q: "attention.query",
        k: "attention.key",
        v: "attention.value",
        packed: "attention.qkv",
        o: "attention.dense",
        gate: "ffn_gate",
        up: "ffn",
        down: "ffn_output",
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
    /// The modules that names tell.
    pub(super) named: Vec<Option<String>>,
    pub(super) namer: &'a Namer,
}

/// Names queries, keys and values that one call of PyTorch's `multi_head_attention_forward` computes, by that function's words: their nodes have the attention's own
/// name, behind which the projection that follows has its own.
pub(super) fn name_of_one_call(modules: &mut [Option<String>], attentions: &[Attention]) {
    for attention in attentions {
        let [Some(q), Some(k), Some(v), Some(o)] = [attention.q, attention.k, attention.v, attention.o] else { continue };
        let (Some(owner), Some(next)) = (modules[q].clone(), modules[o].as_deref()) else { continue };
        let is_one_call = q != k && k != v && q != v && [k, v].iter().all(|at| modules[*at].as_ref() == Some(&owner));
        if is_one_call && next.strip_prefix(&owner).is_some_and(|rest| rest.starts_with('.')) {
            for (at, name) in [(q, "q_proj"), (k, "k_proj"), (v, "v_proj")] {
                modules[at] = Some(format!("{owner}.{name}"));
            }
        }
    }
}

/// Fills the names that are missing, as far as roles are recognised.
pub(super) fn fill(modules: &mut [Option<String>], evidence: &Evidence<'_>, misses: &mut Vec<Miss>) {
    share(modules, evidence);
    if modules.iter().all(Option::is_some) {
        return;
    }
    let places = places(evidence);
    for (call, (attention, place)) in evidence.attentions.iter().zip(&places).enumerate() {
        let end = evidence.attentions.get(call + 1).and_then(first).or(evidence.head).unwrap_or(modules.len());
        for (at, role) in roles(attention, end, evidence, place.convention) {
            if modules[at].is_none() {
                modules[at] = place.module(role);
            }
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

/// Gives all calls of a shared module one name. Each call has a copy of the weight, and only one has the name.
fn share(modules: &mut [Option<String>], evidence: &Evidence<'_>) {
    let weight = |at: usize| &evidence.linears[at].weight;
    let named: Vec<usize> = (0..modules.len()).filter(|&at| modules[at].is_some()).collect();
    for at in (0..modules.len()).filter(|at| !named.contains(at)) {
        let other = named.iter().find(|&&other| copies::are_one(evidence.graph, weight(at), weight(other)));
        modules[at] = other.and_then(|&other| modules[other].clone());
    }
}

/// What is known of the names around an attention.
struct Place {
    convention: &'static Convention,
    /// The layer's path.
    layer: Option<String>,
    /// The path of the module that attends: what is in front of the words for queries, keys and values.
    own: Option<String>,
}

impl Place {
    /// The path of the module with a role of the convention.
    fn module(&self, role: &str) -> Option<String> {
        let Convention { q, k, v, packed, .. } = self.convention;
        let word = role.rsplit('.').next().unwrap_or(role);
        match (&self.own, &self.layer) {
            (Some(own), _) if [*q, *k, *v, *packed].contains(&role) => Some(format!("{own}.{word}")),
            (_, Some(layer)) => Some(format!("{layer}.{role}")),
            _ => None,
        }
    }
}

/// The places of all attentions: from what is left of each one's own names, else by counting layers.
///
/// Encoders with decoders have two stacks of layers: those are not counted.
fn places(evidence: &Evidence<'_>) -> Vec<Place> {
    let usual = convention(evidence);
    let is_one_stack = evidence.attentions.iter().all(|attention| !attention.cross);
    let counted =
        if is_one_stack { layers(evidence, usual).into_iter().map(Some).collect() } else { vec![None; evidence.attentions.len()] };
    let of_attention = |(attention, counted): (&Attention, Option<String>)| {
        let output = attention.o.and_then(|at| evidence.named[at].as_deref());
        let by_output = output.and_then(|output| {
            let mut all = std::iter::once(usual).chain(CONVENTIONS);
            all.find_map(|c| Some((c, output.strip_suffix(c.o)?.strip_suffix('.')?)))
        });
        let (convention, layer) = by_output.map_or((usual, counted), |(convention, layer)| (convention, Some(layer.to_owned())));
        let own = attention.o.and_then(|at| evidence.namer.place(evidence.graph, evidence.linears[at].x));
        let is_within =
            |own: &String| layer.as_ref().is_none_or(|layer| own.strip_prefix(layer.as_str()).is_some_and(|rest| rest.starts_with('.')));
        Place { convention, own: own.filter(is_within), layer }
    };
    evidence.attentions.iter().zip(counted).map(of_attention).collect()
}

/// The path of each attention's layer, by counting. A layer that is called several times has one.
fn layers(evidence: &Evidence<'_>, convention: &Convention) -> Vec<String> {
    let query = |attention: &Attention| attention.q.map(|at| &evidence.linears[at].weight);
    let mut distinct: Vec<&Attention> = vec![];
    let mut numbers = vec![];
    for attention in evidence.attentions {
        let is_same = |other: &&Attention| query(attention).zip(query(other)).is_some_and(|(a, b)| copies::are_one(evidence.graph, a, b));
        numbers.push(distinct.iter().position(is_same).unwrap_or(distinct.len()));
        if numbers.last() == Some(&distinct.len()) {
            distinct.push(attention);
        }
    }
    let norm = format!(".{}", convention.sign);
    let mut paths: Vec<&str> = evidence.known.iter().filter_map(|path| path.strip_suffix(&norm)).collect();
    paths.sort_by_key(|path| in_order(path));
    if paths.len() == distinct.len() {
        return numbers.into_iter().map(|number| paths[number].to_owned()).collect();
    }
    let path = layers_path(evidence.known).unwrap_or_else(|| convention.layers.to_owned());
    numbers.into_iter().map(|number| format!("{path}.{number}")).collect()
}

/// A path's words, numbers as numbers: layer 10 comes after layer 9.
fn in_order(path: &str) -> Vec<(usize, &str)> {
    path.split('.').map(|word| word.parse().map_or((0, word), |number| (number, ""))).collect()
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
