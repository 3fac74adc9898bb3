//! Constants by the names that PyTorch gives them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{Graph, Node, ValueId};

use super::names::{Evidence, Namer, Owned};
use super::walk::NodeRef;
use super::{Embedding, Layout, Parameter, Projection};

/// Normalizations and the inputs that are their parameters.
const NORMS: &[(&str, &[(usize, &str)])] = &[
    ("LayerNormalization", &[(1, "weight"), (2, "bias")]),
    ("RMSNormalization", &[(1, "weight")]),
    ("SimplifiedLayerNormalization", &[(1, "weight")]),
    ("com.microsoft:SkipLayerNormalization", &[(2, "weight"), (3, "bias")]),
    ("com.microsoft:SkipSimplifiedLayerNormalization", &[(2, "weight")]),
];

/// What a normalisation calls the parameter that one of its inputs is.
pub(super) fn of_norm(node: &Node, input: usize) -> Option<&'static str> {
    let (_, inputs) = NORMS.iter().find(|(op, _)| *op == &*node.op)?;
    inputs.iter().find(|(place, _)| *place == input).map(|(_, leaf)| *leaf)
}

/// Every parameter, in the order of the names. A constant that two modules share is there under both names; a parameter of which the calls
/// of a module have copies is not there: it cannot be trained as one.
pub(super) fn find(graph: &Graph, projections: &[Projection], embeddings: &[Embedding], namer: &Namer) -> Vec<Parameter> {
    // The bias of a `Linear` is a vector. What is added with more axes is kept apart from the parameters: BART's `final_logits_bias`.
    let is_vector = |value: &ValueId| graph.fact(*value).rank() == Some(1);
    let mut found = BTreeMap::new();
    let mut parts = BTreeMap::new();
    let mut copied = BTreeSet::new();
    for projection in projections {
        let Projection { module, weight, bias, .. } = projection;
        let transposed = (weight.layout == Layout::InOut) != projection.conv1d;
        let bias = bias.filter(is_vector);
        let named = bias.map(|bias| (format!("{module}.bias"), bias)).into_iter().chain([(format!("{module}.weight"), weight.value)]);
        copied.extend(
            named
                .filter(|(name, value)| found.get(name).is_some_and(|(other, _)| graph.origin(*other) != graph.origin(*value)))
                .map(|(name, _)| name),
        );
        found.extend(bias.map(|bias| (format!("{module}.bias"), (bias, false))));
        match &weight.part {
            None => {
                found.insert(format!("{module}.weight"), (weight.value, transposed));
            }
            // A part of a matrix is trained by no method, a part of a bias is.
            Some(part) => {
                parts.insert(format!("{module}.bias"), part.clone());
            }
        }
    }
    found.extend(embeddings.iter().map(|e| (format!("{}.weight", e.module), (e.weight, e.transposed))));
    let taken: BTreeSet<ValueId> = found.values().map(|&(value, _)| value).collect();
    for (Owned { module, leaf }, value) in own_names(graph, namer).chain(norms(graph, namer)) {
        if !taken.contains(&value) {
            found.entry(format!("{module}.{leaf}")).or_insert((value, false));
        }
    }
    let parameter = |(name, (value, transposed)): (String, (ValueId, bool))| {
        let stored = graph.stored(value);
        let floats = stored.is_some_and(|tensor| tensor.dtype().is_float());
        let is_vector = stored.is_some_and(|tensor| tensor.shape().iter().filter(|length| **length > 1).count() <= 1);
        Parameter { part: parts.remove(&name), name, value, transposed, floats, is_vector }
    };
    found.into_iter().filter(|(name, _)| !copied.contains(name)).map(parameter).collect()
}

/// Constants that kept the names of parameters.
fn own_names<'a>(graph: &'a Graph, namer: &'a Namer) -> impl Iterator<Item = (Owned, ValueId)> + 'a {
    let floats = graph.initializers().filter(|(_, tensor)| tensor.dtype().is_float());
    floats.filter_map(|(id, _)| Some((namer.parameter(graph.value_name(id))?, id)))
}

/// Parameters of normalizations that lost their names, by the node that uses them. One that is stored in another type stands behind a `Cast`.
fn norms<'a>(graph: &'a Graph, namer: &'a Namer) -> impl Iterator<Item = (Owned, ValueId)> + 'a {
    graph.node_ids().flat_map(move |(id, _)| {
        let node = NodeRef::new(graph, id);
        let inputs = NORMS.iter().find(|(op, _)| *op == node.op()).map_or(&[][..], |(_, inputs)| inputs);
        let module = if inputs.is_empty() { None } else { namer.module(&Evidence::of(graph, &[id], &[])) };
        inputs.iter().filter_map(move |&(input, leaf)| {
            let value = node.input(input).ok()?.behind(&["Identity", "Cast"]);
            value.stored().filter(|tensor| tensor.dtype().is_float())?;
            namer.parameter(value.name()).is_none().then_some(())?;
            Some((Owned { module: module.clone()?, leaf: leaf.to_owned() }, value.id()))
        })
    })
}
