//! Values of the forward pass that are computed again for the backward pass, so that they need not be kept.
//!
//! Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost. The forward pass is cut where least goes on: between the layers, where
//! only the residual stream does. What is made and read inside one layer alone is written a second time for the backward pass, from
//! what goes on into the layer.
//!
//! The second time must not be the first: an optimizer that merges equal nodes (ONNX Runtime's CommonSubexpressionElimination) would keep what
//! was to be forgotten. And it must not come early. Both follow from what it reads: a view of the stream whose target is computed from the shape of the
//! gradient that comes back to this layer. Nobody can tell that it changes nothing, and it waits for the backward pass of the layers behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::anatomy::Anatomy;
use crate::error::{Error, Result};
use crate::grad::Gradients;
use crate::ir::{Attr, Builder, DType, Dim, Expr, Fact, LATER, Node, NodeSpec, Trait, ValueId};
use crate::num;

/// What is computed again in the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: every value that the backward pass reads is kept.
    #[default]
    None,
    /// The scores of attentions, some queries at a time.
    Attention,
    /// Scores, and in each layer everything but products with weights: what takes much memory and little time.
    Auto,
    /// Scores, and all of each layer from what goes into it.
    Layer,
}

/// All choices, by name.
const CHOICES: &[(&str, Recompute)] =
    &[("none", Recompute::None), ("attention", Recompute::Attention), ("auto", Recompute::Auto), ("layer", Recompute::Layer)];

impl Recompute {
    /// Whether attentions run over some queries at a time.
    #[must_use]
    pub fn parts_attention(self) -> bool {
        self != Self::None
    }

    /// Whether layers are computed again, or parts of them.
    #[must_use]
    pub fn repeats_layers(self) -> bool {
        matches!(self, Self::Auto | Self::Layer)
    }

    /// Whether nothing is computed again.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CHOICES.iter().find(|(_, choice)| choice == self).map_or("none", |(name, _)| name))
    }
}

impl FromStr for Recompute {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = CHOICES.iter().find(|(choice, _)| *choice == name).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let names = CHOICES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Error::not_found("choice of what is computed again", name).with_hint(format!("the choices are {names}"))
        })
    }
}

/// Values of known shape with fewer elements than this are kept: parameters, and what is computed of parameters alone.
const SMALL: i64 = 1 << 16;
/// The length that a symbol stands for where places to cut are compared.
const NOMINAL: i64 = 256;
/// Operators that are much work: products, with a weight where one operand does not depend on hidden states.
const WORK: &[&str] = &["MatMul", "Gemm", "Conv", "Scan", "Attention"];
/// Whether a node is not written a second time: what it gives is not the same twice, or much work.
fn runs_once(node: &Node) -> bool {
    Trait::Random.is_of(&node.op) || matches!(&*node.op, "Loop" | "If")
}

/// The forward pass, in layers.
pub(super) struct Layers {
    choice: Recompute,
    /// The nodes that the loss needs, in order.
    nodes: Vec<Node>,
    /// For each value of these nodes, the place of its node.
    maker: BTreeMap<ValueId, usize>,
    /// For each value, the first and the last place where it is read.
    read: BTreeMap<ValueId, (usize, usize)>,
    /// What follows from projections and embeddings.
    hidden: BTreeSet<ValueId>,
    /// The places of each layer's nodes.
    ranges: Vec<Range<usize>>,
    /// How many nodes there were when the backward pass had not begun.
    written: usize,
}

impl Layers {
    /// Cuts what was written so far into layers. `ends` are the values that the loss is read from.
    ///
    /// # Errors
    /// A graph without layers, or with a cycle.
    pub(super) fn of(b: &Builder, anatomy: &Anatomy, ends: &[ValueId], choice: Recompute) -> Result<Self> {
        let nodes = needed(b.sorted_nodes()?, ends);
        let (mut maker, mut read) = (BTreeMap::new(), BTreeMap::<ValueId, (usize, usize)>::new());
        for (place, node) in nodes.iter().enumerate() {
            for id in node.writes() {
                maker.insert(id, place);
            }
            for id in node.reads() {
                read.entry(id).and_modify(|(_, last)| *last = place).or_insert((place, place));
            }
        }
        for &id in ends {
            read.entry(id).and_modify(|(_, last)| *last = nodes.len()).or_insert((nodes.len(), nodes.len()));
        }
        let hidden = hidden(&nodes, anatomy);
        let mut layers = Self { choice, nodes, maker, read, hidden, ranges: vec![], written: b.node_count() };
        layers.ranges = layers.cut(b, anatomy, ends)?;
        Ok(layers)
    }

    /// The places of the layers' nodes.
    ///
    /// # Errors
    /// A graph without attentions.
    fn cut(&self, b: &Builder, anatomy: &Anatomy, ends: &[ValueId]) -> Result<Vec<Range<usize>>> {
        let place = |id: ValueId| self.maker.get(&b.current(id).id()).copied();
        let places = |cross: bool| -> Vec<usize> {
            let of_kind = anatomy.attentions.iter().filter(|attention| attention.cross == cross);
            of_kind.filter_map(|attention| place(attention.output)).collect::<BTreeSet<usize>>().into_iter().collect()
        };
        let attentions = Some(places(false)).filter(|own| !own.is_empty()).unwrap_or_else(|| places(true));
        if attentions.is_empty() {
            let error =
                Error::unsupported(format!("`recompute {}`", self.choice), "no attention was recognised, so layers are not told apart");
            return Err(error.with_hint("`peft-onnx inspect --explain` says what was looked for"));
        }
        let live = self.live(b);
        let end = ends.iter().filter(|id| self.hidden.contains(id)).filter_map(|id| self.maker.get(id)).min().copied();
        let end = end.map_or(self.nodes.len(), |place| place + 1);
        let regions: Vec<Range<usize>> = std::iter::once(0)
            .chain(attentions.iter().copied())
            .zip(attentions.iter().copied().chain([end]))
            .map(|(from, to)| from + 1..to + 1)
            .collect();
        // What goes on between two layers is the least that goes on anywhere between them.
        let inner = if regions.len() > 2 { &regions[1..regions.len() - 1] } else { &regions[..1] };
        let least =
            inner.iter().filter_map(|region| live.get(region.clone())?.iter().filter(|&&n| n > 0).min()).max().copied().unwrap_or(1);
        let best = |region: &Range<usize>| {
            let places = region.clone().filter(|&place| live.get(place).is_some_and(|&n| n >= least));
            places.rev().min_by_key(|&place| live[place])
        };
        let mut cuts: Vec<usize> = regions.iter().filter_map(best).collect();
        if cuts.len() < regions.len() {
            cuts.insert(0, 0);
        }
        Ok(cuts.windows(2).map(|pair| pair[0]..pair[1]).filter(|layer| !layer.is_empty()).collect())
    }

    /// For each place, the elements of hidden states that were made before it and are read there or later.
    fn live(&self, b: &Builder) -> Vec<i64> {
        let mut change = vec![0_i64; self.nodes.len() + 2];
        for id in &self.hidden {
            let Some((&made, (_, last))) = self.maker.get(id).zip(self.read.get(id)) else { continue };
            let elements = elements(&b.fact(*id));
            change[made + 1] += elements;
            change[last + 1] -= elements;
        }
        let mut sum = 0;
        change
            .iter()
            .map(|&step| {
                sum += step;
                sum
            })
            .collect()
    }

    /// The layer that a value is made in and read in alone.
    fn layer_of(&self, id: ValueId) -> Option<usize> {
        let place = *self.maker.get(&id)?;
        let layer = self.ranges.partition_point(|layer| layer.end <= place);
        let range = self.ranges.get(layer).filter(|range| range.contains(&place))?;
        self.read.get(&id).is_none_or(|(_, last)| range.contains(last)).then_some(layer)
    }

    /// Makes the backward pass, which was written since, read values of its own where they are not to be kept.
    pub(super) fn repeat(&self, b: &Builder, gradients: &Gradients<'_>) {
        let backward = b.nodes_from(self.written);
        let mut again = Again { layers: self, b, made: BTreeMap::new(), views: BTreeMap::new(), waits: BTreeMap::new() };
        for node in backward {
            let instead: BTreeMap<ValueId, ValueId> = node
                .reads()
                .filter_map(|id| {
                    let layer = self.layer_of(id).filter(|&layer| again.is_forgotten(id, layer, gradients))?;
                    Some((id, b.scoped(&format!("again/{layer}"), || again.value(id, layer, gradients))))
                })
                .collect();
            if let Some(output) = node.writes().next().filter(|_| !instead.is_empty()) {
                b.read_instead(output, &instead);
            }
        }
    }
}

/// What was written a second time.
struct Again<'a, 'g> {
    layers: &'a Layers,
    b: &'g Builder,
    made: BTreeMap<ValueId, ValueId>,
    /// Views of what goes into a layer that wait.
    views: BTreeMap<(ValueId, usize), ValueId>,
    /// For each layer, a vector of one zero, int64, that is there when the backward pass arrives.
    waits: BTreeMap<usize, Option<ValueId>>,
}

impl<'g> Again<'_, 'g> {
    /// Whether a value of a layer is made again.
    fn is_forgotten(&mut self, id: ValueId, layer: usize, gradients: &Gradients<'g>) -> bool {
        let Some(node) = self.layers.maker.get(&id).map(|&place| &self.layers.nodes[place]) else { return false };
        let fact = self.b.fact(id);
        let is_small = fact.known_shape().is_some_and(|shape| shape.iter().product::<i64>() < SMALL);
        let is_hidden = self.layers.hidden.contains(&id);
        let by_weight = || node.reads().any(|read| !self.layers.hidden.contains(&read));
        let is_product = WORK.contains(&&*node.op) && is_hidden && (by_weight() || &*node.op != "MatMul");
        let is_kept = (is_small && !is_hidden) || runs_once(node) || (self.layers.choice == Recompute::Auto && is_product);
        !is_kept && self.wait(layer, gradients).is_some()
    }

    /// A value of a layer, made again.
    fn value(&mut self, id: ValueId, layer: usize, gradients: &Gradients<'g>) -> ValueId {
        if let Some(&made) = self.made.get(&id) {
            return made;
        }
        let Some(node) = self.layers.maker.get(&id).map(|&place| self.layers.nodes[place].clone()) else { return id };
        let mut waits = false;
        let mut read = |again: &mut Self, input: ValueId| {
            if again.layers.layer_of(input) == Some(layer) && again.is_forgotten(input, layer, gradients) {
                waits = true;
                again.value(input, layer, gradients)
            } else if again.layers.hidden.contains(&input) || is_activation(&again.b.fact(input)) {
                waits = true;
                again.later(input, layer, gradients)
            } else {
                input
            }
        };
        let mut inputs: Vec<Option<ValueId>> = node.inputs.iter().map(|input| input.map(|input| read(self, input))).collect();
        let captures = node.captures.iter().map(|&input| read(self, input)).collect();
        // Masks of dropout follow from whole numbers alone.
        let is_free = |id: &ValueId| !self.b.is_constant(*id) && self.b.fact(*id).dtype.is_some_and(|dtype| !dtype.is_float());
        if !waits && let Some(at) = inputs.iter().position(|input| input.as_ref().is_some_and(is_free)) {
            inputs[at] = inputs[at].map(|input| self.later(input, layer, gradients));
        }
        let spec = NodeSpec {
            op: node.op.clone(),
            inputs,
            outputs: node.outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs.clone(),
            captures,
            metadata: node.metadata.clone(),
            ..NodeSpec::default()
        };
        let written = self.b.node(spec);
        for (own, again) in node.outputs.iter().zip(written).filter_map(|(own, again)| (*own).zip(again)) {
            self.b.assume(again.id(), self.b.fact(own));
            self.made.insert(own, again.id());
        }
        self.made.get(&id).copied().unwrap_or(id)
    }

    /// A view of a value, as it is, that waits for the backward pass to arrive at a layer.
    fn later(&mut self, id: ValueId, layer: usize, gradients: &Gradients<'g>) -> ValueId {
        if let Some(&view) = self.views.get(&(id, layer)) {
            return view;
        }
        let (b, fact) = (self.b, self.b.fact(id));
        let Some((wait, rank)) = self.wait(layer, gradients).zip(fact.rank()) else { return id };
        if let Some(view) = whole_number_later(b, id, wait) {
            self.views.insert((id, layer), view);
            return view;
        }
        // A target of 0 copies the axis.
        let target = match rank {
            0 => plain(b, "Slice", &[Some(wait), Some(wait), Some(wait)], Fact::new(DType::I64, vec![Dim::known(0)])),
            1 => Some(wait),
            _ => {
                let zeros = b.ints(&vec![0; rank - 1]).id();
                let length = Dim::known(num::int(rank));
                let spec = NodeSpec {
                    op: "Concat".into(),
                    inputs: vec![Some(wait), Some(zeros)],
                    outputs: vec![Some("".into())],
                    attrs: [("axis".into(), Attr::Int(0))].into_iter().collect(),
                    ..NodeSpec::default()
                };
                written(b, spec, Fact::new(DType::I64, vec![length]))
            }
        };
        let spec = NodeSpec {
            op: "Reshape".into(),
            inputs: vec![Some(id), target],
            outputs: vec![Some("".into())],
            metadata: vec![(LATER.into(), "".into())],
            ..NodeSpec::default()
        };
        let view = written(b, spec, fact).unwrap_or(id);
        self.views.insert((id, layer), view);
        view
    }

    /// A zero that is there when the backward pass arrives at a layer: none if it never does.
    fn wait(&mut self, layer: usize, gradients: &Gradients<'g>) -> Option<ValueId> {
        if let Some(&wait) = self.waits.get(&layer) {
            return wait;
        }
        let end = self.layers.ranges.get(layer)?.end;
        let goes_on = self.layers.hidden.iter().filter(|id| {
            let made = self.layers.maker.get(id).is_some_and(|&made| made < end);
            made && self.layers.read.get(id).is_some_and(|(_, last)| *last >= end)
        });
        let gradient = goes_on.filter_map(|&id| gradients.of(id)).max_by_key(|gradient| elements(&gradient.fact()));
        let wait = gradient.and_then(|gradient| self.b.scoped(&format!("again/{layer}"), || zero(self.b, gradient)));
        self.waits.insert(layer, wait);
        wait
    }
}

/// A whole number without axes as it is, later: a zero is added. It stays where it is: of a view whose target a kernel reads from the host's memory, ONNX Runtime
/// would have the GPU make it, and wait for it.
fn whole_number_later(b: &Builder, id: ValueId, wait: ValueId) -> Option<ValueId> {
    let fact = b.fact(id);
    let dtype = fact.dtype.filter(|dtype| fact.rank() == Some(0) && matches!(dtype, DType::I32 | DType::I64))?;
    let zero = b.expr(wait).squeeze(&[0]).cast(dtype).id();
    let spec = NodeSpec {
        op: "Add".into(),
        inputs: vec![Some(id), Some(zero)],
        outputs: vec![Some("".into())],
        metadata: vec![(LATER.into(), "".into())],
        ..NodeSpec::default()
    };
    written(b, spec, fact)
}

/// A vector of one zero, int64, computed from a gradient. No optimizer knows that it is zero.
fn zero(b: &Builder, gradient: Expr<'_>) -> Option<ValueId> {
    let one = || Fact::new(DType::I64, vec![Dim::known(1)]);
    let length = if gradient.fact().known_shape().is_some() {
        // The shape is known before the graph runs: what the gradient is, is not.
        gradient.reshape(&[-1]).slice(&[0], &[1], &[0]).cast(DType::I64).id()
    } else {
        let attrs = [("start".into(), Attr::Int(0)), ("end".into(), Attr::Int(1))];
        let inputs = vec![Some(gradient.id())];
        let spec = NodeSpec {
            op: "Shape".into(),
            inputs,
            outputs: vec![Some("".into())],
            attrs: attrs.into_iter().collect(),
            ..NodeSpec::default()
        };
        written(b, spec, one())?
    };
    plain(b, "Mul", &[Some(length), Some(b.ints(&[0]).id())], one())
}

fn plain(b: &Builder, op: &str, inputs: &[Option<ValueId>], fact: Fact) -> Option<ValueId> {
    written(b, NodeSpec { op: op.into(), inputs: inputs.to_vec(), outputs: vec![Some("".into())], ..NodeSpec::default() }, fact)
}

/// The output of a node of which no more is known than `fact`.
fn written(b: &Builder, spec: NodeSpec, fact: Fact) -> Option<ValueId> {
    let id = b.node(spec).into_iter().flatten().next()?.id();
    b.assume(id, fact);
    Some(id)
}

/// The nodes that some values need, in order.
fn needed(nodes: Vec<Node>, ends: &[ValueId]) -> Vec<Node> {
    let mut wanted: BTreeSet<ValueId> = ends.iter().copied().collect();
    let mut kept: Vec<Node> = nodes
        .into_iter()
        .rev()
        .filter(|node| {
            let is_wanted = node.writes().any(|id| wanted.contains(&id));
            if is_wanted {
                wanted.extend(node.reads());
            }
            is_wanted
        })
        .collect();
    kept.reverse();
    kept
}

/// What follows from projections and from the embedding of tokens; lengths do not.
pub(super) fn hidden(nodes: &[Node], anatomy: &Anatomy) -> BTreeSet<ValueId> {
    let embedding = anatomy.token_embedding.and_then(|at| anatomy.embeddings.get(at)).map(|embedding| embedding.output);
    let mut hidden: BTreeSet<ValueId> = anatomy.projections.iter().map(|projection| projection.y).chain(embedding).collect();
    for node in nodes.iter().filter(|node| !Trait::Lengths.is_of(&node.op)) {
        if node.reads().any(|id| hidden.contains(&id)) {
            hidden.extend(node.writes());
        }
    }
    hidden
}

/// Whether a value has numbers for each position: hidden states, masks, tables of rotations.
fn is_activation(fact: &Fact) -> bool {
    fact.dtype.is_some_and(DType::is_float) && fact.known_shape().is_none()
}

/// Elements, with a nominal length for each symbol.
fn elements(fact: &Fact) -> i64 {
    let dims = fact.shape.as_deref().unwrap_or_default();
    let length = |dim: &Dim| dim.substitute(|_| Some(Dim::known(NOMINAL))).as_known().unwrap_or(NOMINAL).max(0);
    dims.iter().fold(1_i64, |n, dim| n.saturating_mul(length(dim)))
}
