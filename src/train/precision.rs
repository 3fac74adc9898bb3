//! What graphs of training compute in: float32, or half precision where that is safe.
//!
//! Products compute in half precision, and so do elementwise operators and views of what they give. What adds many numbers up, exponentials, squares, norms, softmax, losses, the adapter's numbers,
//! their gradient and the optimizer stay in float32, and so does every operator without a kernel for the type ([`kernels`](crate::kernels)).
//! Weights are read as they are stored where that is the type, else cast by a node that the session computes once.

use std::fmt;
use std::str::FromStr;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::contract::{Input, Output};
use crate::error::{Error, Result};
use crate::ir::{Attr, Builder, DType, Fact, Graph, ModelInfo, Node, Tensor, ValueId};
use crate::kernels::has_cuda;
use crate::train::cached::VECTORS_GRADIENT;

/// What a run computes in, by the names of the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// float32.
    #[default]
    Float32,
    /// float32 whose products round what they read to 10 bits of mantissa, on GPUs that have it.
    Tf32,
    /// bfloat16 where that is safe.
    BFloat16,
    /// float16 where that is safe, with a scale of the loss that follows the gradients.
    Float16,
}

/// Each precision with its name, and the others that people know it by.
const NAMES: &[(Precision, &str, &[&str])] = &[
    (Precision::Float32, "float32", &["fp32", "f32"]),
    (Precision::Tf32, "tf32", &[]),
    (Precision::BFloat16, "bf16", &["bfloat16"]),
    (Precision::Float16, "fp16", &["float16", "f16"]),
];

impl Precision {
    /// The type of half precision, of those that have one.
    #[must_use]
    pub fn half(self) -> Option<DType> {
        match self {
            Self::Float32 | Self::Tf32 => None,
            Self::BFloat16 => Some(DType::BF16),
            Self::Float16 => Some(DType::F16),
        }
    }

    /// Whether gradients underflow in it, so that the loss is scaled.
    #[must_use]
    pub fn scales_loss(self) -> bool {
        self == Self::Float16
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = NAMES.iter().find(|(precision, ..)| precision == self);
        f.write_str(row.map_or("", |(_, name, _)| name))
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let row = NAMES.iter().find(|(_, name, others)| *name == text || others.contains(&text));
        row.map(|(precision, ..)| *precision).ok_or_else(|| Error::mismatch("precision", "float32, tf32, bf16 or fp16", text))
    }
}

/// The input by which the gradient is scaled on its way, float32, rank 0; 1 if it is not fed.
pub const LOSS_SCALE: &str = "loss_scale";

/// Operators that gain most.
const GAINING: &[&str] = &["MatMul", "Gemm", "Conv"];

/// Operators that compute in half precision what they are given in it.
const FOLLOWING: &[&str] = &[
    "Abs",
    "Add",
    "Concat",
    "Div",
    "Erf",
    "Expand",
    "Flatten",
    "Gather",
    "Gelu",
    "Identity",
    "IsNaN",
    "LeakyRelu",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Of these, sums of a value in half precision with one in float32 are in half precision: the stream that layers add to.
const SUMS: &[&str] = &["Add", "Sub", "Sum"];

/// Operators that take every type: what they give does not depend on it.
const ANY_TYPE: &[&str] = &["Cast", "Shape", "Size"];

/// Constants of up to so many numbers are converted where they are stored.
const SMALL: usize = 1024;

/// The same graph with half precision where that is safe. Inputs and outputs keep their types. Values keep their ids.
///
/// # Errors
/// None for a graph that was finished.
pub fn lowered(graph: &Graph, half: DType) -> Result<Graph> {
    let mut pinned: FxHashSet<ValueId> = graph.outputs().iter().copied().collect();
    pinned.extend(gradient(graph));
    let b = Builder::on(graph);
    b.scoped("half", || Lowering::new(&b, graph, graph.model(), half, pinned).run())?;
    b.infer_again();
    b.finish()
}

/// The same graph with the input [`LOSS_SCALE`], with which the gradient is multiplied where it begins and divided where it ends. The output `loss` is multiplied with it.
///
/// # Errors
/// A graph that makes no gradient.
pub fn scaled(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let gradient = gradient(graph).ok_or_else(|| Error::not_found("output", Output::GradientNext.name()))?;
    let scale = b.optional_input(LOSS_SCALE, Tensor::from_f32(&[], &[1.0]));
    let counts = [Input::LabelCount, Input::SecondCount].map(|input| b.input_named(input.name()));
    match (counts, b.input_named(VECTORS_GRADIENT)) {
        ([None, None], None) => return Err(Error::not_found("input", Input::LabelCount.name())),
        ([None, None], Some(given)) => {
            for begins in [Some(given), b.input_named(Input::PenaltyShare.name())].into_iter().flatten() {
                b.rewire(begins, |begins| begins * scale);
            }
        }
        (counts, _) => {
            for count in counts.into_iter().flatten() {
                b.rewire(count, |count| count / scale);
            }
        }
    }
    b.rewire(b.expr(gradient), |gradient| gradient / scale);
    b.finish()
}

/// The gradient of the trainable vector, in a graph that adds it to that of the batches before.
fn gradient(graph: &Graph) -> Option<ValueId> {
    let next = graph.outputs().iter().copied().find(|&id| graph.value_name(id) == Output::GradientNext.name())?;
    let sum = graph.node(graph.producer(next)?);
    let is_so_far = |id: &ValueId| graph.is_input(*id) && graph.value_name(*id) == Input::Gradient.name();
    sum.inputs.iter().flatten().copied().find(|id| !is_so_far(id))
}

/// What is known of values, beside their types.
#[derive(Clone, Copy, Default)]
struct Traits {
    /// It is a constant, or follows from constants alone.
    is_constant: bool,
    /// It follows from whole numbers and small constants alone, as masks and positions do.
    is_free: bool,
    /// It may have numbers beyond the range of half precision, as masks have.
    is_wild: bool,
}

/// A graph, or a body, on the way to half precision.
struct Lowering<'g> {
    b: &'g Builder,
    graph: &'g Graph,
    model: &'g ModelInfo,
    half: DType,
    /// Values that stay in float32 for whoever reads them.
    pinned: FxHashSet<ValueId>,
    /// Values that were float32 and are in half precision.
    lowered: FxHashSet<ValueId>,
    /// Values that were cast back to float32 for whoever reads them.
    ends: FxHashSet<ValueId>,
    /// Values in float32, each with the same in half precision.
    halves: FxHashMap<ValueId, ValueId>,
    /// The reverse.
    wides: FxHashMap<ValueId, ValueId>,
    traits: FxHashMap<ValueId, Traits>,
}

impl<'g> Lowering<'g> {
    fn new(b: &'g Builder, graph: &'g Graph, model: &'g ModelInfo, half: DType, pinned: FxHashSet<ValueId>) -> Self {
        let mut traits = FxHashMap::default();
        for (id, tensor) in graph.initializers().filter(|(id, _)| !graph.is_input(*id)) {
            // Rows of a table of tokens are numbers that were learnt.
            let is_free = tensor.len() <= SMALL || !tensor.dtype().is_float();
            traits.insert(id, Traits { is_constant: true, is_free, is_wild: is_wild(tensor, half) });
        }
        let (lowered, ends) = (FxHashSet::default(), FxHashSet::default());
        let (halves, wides) = (FxHashMap::default(), FxHashMap::default());
        Self { b, graph, model, half, pinned, lowered, ends, halves, wides, traits }
    }

    fn run(&mut self) -> Result<()> {
        self.graph.nodes().iter().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        // What it reads may be another value by now.
        let Some((output, node)) = node.writes().next().and_then(|output| Some((output, self.b.maker(output)?))) else { return Ok(()) };
        self.note(&node);
        if node.attrs.values().any(|attr| matches!(attr, Attr::Graph(_) | Attr::Graphs(_))) {
            return self.bodies(output, &node);
        }
        let floats: Vec<(usize, ValueId)> = self.floats(&node);
        if floats.is_empty() || ANY_TYPE.contains(&&*node.op) {
            return Ok(());
        }
        let is_half = self.computes_in_half(&node, &floats);
        for (at, id) in floats {
            let read = if is_half { self.half(id)? } else { self.wide(id) };
            self.b.rewire_input(output, at, self.b.expr(read));
        }
        if is_half {
            for id in node.writes().filter(|id| self.b.fact(*id).dtype == Some(DType::F32)).collect::<Vec<_>>() {
                self.becomes_half(id);
            }
        }
        Ok(())
    }

    /// The inputs that were float32.
    fn floats(&self, node: &Node) -> Vec<(usize, ValueId)> {
        let is_float = |id: &ValueId| self.lowered.contains(id) || self.b.fact(*id).dtype == Some(DType::F32);
        (0..).zip(&node.inputs).filter_map(|(at, id)| Some((at, (*id).filter(is_float)?))).collect()
    }

    fn becomes_half(&mut self, id: ValueId) {
        self.b.assume(id, Fact { dtype: Some(self.half), ..self.b.fact(id) });
        self.lowered.insert(id);
        if self.pinned.contains(&id) {
            let mut wide = id;
            self.b.rewire(self.b.expr(id), |value| {
                let cast = value.cast(DType::F32);
                wide = cast.id();
                cast
            });
            self.wides.insert(id, wide);
            self.ends.insert(wide);
        }
    }

    /// Notes what follows of a node's outputs from its inputs.
    fn note(&mut self, node: &Node) {
        let of = |id: ValueId| {
            let known = self.traits.get(&id).copied();
            // A whole number is free, wherever it comes from.
            let is_whole = || self.b.fact(id).dtype.is_some_and(|dtype| !dtype.is_float());
            known.unwrap_or_else(|| Traits { is_free: is_whole(), ..Traits::default() })
        };
        let read: Vec<Traits> = node.reads().map(of).collect();
        let all = |is: fn(&Traits) -> bool| read.iter().all(is);
        let passes = FOLLOWING.contains(&&*node.op);
        let traits = Traits {
            is_constant: all(|traits| traits.is_constant),
            is_free: all(|traits| traits.is_free),
            is_wild: passes && read.iter().any(|traits| traits.is_wild),
        };
        self.traits.extend(node.writes().map(|id| (id, traits)));
    }

    fn traits_of(&self, id: ValueId) -> Traits {
        self.traits.get(&id).copied().unwrap_or_default()
    }

    fn computes_in_half(&self, node: &Node, floats: &[(usize, ValueId)]) -> bool {
        let as_half = |id: ValueId| self.b.fact(id).dtype.map(|dtype| if dtype == DType::F32 { self.half } else { dtype });
        let op = &*node.op;
        if !has_cuda(self.model, node, as_half) {
            return false;
        }
        if GAINING.contains(&op) {
            // Angles of rotations are products of positions.
            return floats.iter().any(|(_, id)| !self.traits_of(*id).is_free);
        }
        // Squares leave the range soonest.
        let is_square = op == "Mul" && node.input(0) == node.input(1);
        if !FOLLOWING.contains(&op) || is_square || !floats.iter().any(|(_, id)| self.has_half(*id)) {
            return false;
        }
        let is_wide = |id: &ValueId| !self.has_half(*id) && !self.traits_of(*id).is_free && !self.is_broadcast(*id, node);
        let has_wide = floats.iter().any(|(_, id)| is_wide(id));
        let ends_here = node.writes().any(|id| self.pinned.contains(&id));
        !has_wide || (SUMS.contains(&op) && !ends_here && !self.is_read_in_float32(node))
    }

    fn has_half(&self, id: ValueId) -> bool {
        let is_stored = || self.stored(id).is_some_and(|id| self.b.fact(id).dtype == Some(self.half));
        !self.ends.contains(&id) && (self.lowered.contains(&id) || self.halves.contains_key(&id) || is_stored())
    }

    /// What a value is cast from.
    fn stored(&self, id: ValueId) -> Option<ValueId> {
        self.b.maker(id).filter(|maker| &*maker.op == "Cast")?.input(0)
    }

    /// Whether a value has fewer numbers than what a node makes of it.
    fn is_broadcast(&self, id: ValueId, node: &Node) -> bool {
        let shape = |id: ValueId| self.b.fact(id).shape;
        let Some((own, made)) = shape(id).zip(node.output(0).and_then(shape)) else { return false };
        own.len() < made.len() || own.iter().zip(&made).any(|(own, made)| own.as_known() == Some(1) && made.as_known() != Some(1))
    }

    /// Whether all that read what a node makes compute in float32.
    fn is_read_in_float32(&self, node: &Node) -> bool {
        let uses = node.output(0).map(|id| self.graph.uses(id)).unwrap_or_default();
        let ops = uses.iter().map(|used| &self.graph.node(used.node).op);
        !uses.is_empty() && ops.into_iter().all(|op| !GAINING.contains(&&**op) && !FOLLOWING.contains(&&**op))
    }

    /// A value in half precision.
    fn half(&mut self, id: ValueId) -> Result<ValueId> {
        if self.lowered.contains(&id) {
            return Ok(id);
        }
        if let Some(&half) = self.halves.get(&id) {
            return Ok(half);
        }
        let half = self.made_half(id)?;
        self.halves.insert(id, half);
        Ok(half)
    }

    fn made_half(&self, id: ValueId) -> Result<ValueId> {
        let (b, value) = (self.b, self.b.expr(id));
        if let Some(small) = b.constant_of(id).filter(|tensor| tensor.len() <= SMALL) {
            let numbers: Vec<f64> = small.to_f64().unwrap_or_default().into_iter().map(|number| clamped(number, self.half)).collect();
            let tensor = Tensor::from_f64(self.half, small.shape(), &numbers)?;
            return Ok(b.initializer(&format!("{}_{}", value.name(), self.half), tensor).id());
        }
        match self.stored(id) {
            Some(stored) if b.fact(stored).dtype == Some(self.half) => Ok(stored),
            Some(stored) if b.fact(stored).dtype.is_some_and(|dtype| dtype != DType::F32) => Ok(b.expr(stored).cast(self.half).id()),
            _ if self.traits_of(id).is_wild => {
                let most = largest(self.half);
                Ok(value.max(value.same_type(-most)).min(value.same_type(most)).cast(self.half).id())
            }
            _ => Ok(value.cast(self.half).id()),
        }
    }

    /// A value in float32.
    fn wide(&mut self, id: ValueId) -> ValueId {
        if !self.lowered.contains(&id) {
            return id;
        }
        let b = self.b;
        *self.wides.entry(id).or_insert_with(|| b.expr(id).cast(DType::F32).id())
    }

    /// A node with bodies. What it reads and gives by name is float32; captured values are what they are, constants what products in the body need.
    fn bodies(&mut self, output: ValueId, node: &Node) -> Result<()> {
        for (at, id) in self.floats(node) {
            let wide = self.wide(id);
            self.b.rewire_input(output, at, self.b.expr(wide));
        }
        let Some(mut new) = self.b.maker(output) else { return Ok(()) };
        // Each body lists all that the node captures.
        let inner: Vec<Vec<ValueId>> = new.attrs.values().flat_map(Attr::graphs).map(|body| body.captured().to_vec()).collect();
        for at in 0..new.captures.len() {
            let outer = new.captures[at];
            let is_weight = self.traits_of(outer).is_constant && self.b.fact(outer).dtype == Some(DType::F32);
            let read = new.attrs.values().flat_map(Attr::graphs).zip(&inner).any(|(body, captured)| {
                let uses = captured.get(at).map(|&id| body.uses(id)).unwrap_or_default();
                uses.iter().any(|used| GAINING.contains(&&*body.node(used.node).op))
            });
            if is_weight && read {
                new.captures[at] = self.half(outer)?;
            }
        }
        let outside: Vec<(bool, Traits)> =
            new.captures.iter().map(|&id| (self.b.fact(id).dtype == Some(self.half), self.traits_of(id))).collect();
        let scope = format!("{}/half", self.b.name(output));
        for (name, attr) in &mut new.attrs {
            let scope = format!("{scope}/{name}");
            match attr {
                Attr::Graph(body) => *body = self.body(body, &outside, &scope)?.into(),
                Attr::Graphs(bodies) => {
                    *bodies = bodies.iter().map(|body| self.body(body, &outside, &scope).map(Into::into)).collect::<Result<_>>()?;
                }
                _ => {}
            }
        }
        self.b.replace_node(output, new);
        Ok(())
    }

    /// A body whose captured values are in half precision, and known, as `outside` tells; its new nodes are named with a scope of their own.
    fn body(&self, body: &Graph, outside: &[(bool, Traits)], scope: &str) -> Result<Graph> {
        let b = Builder::on(body);
        let mut inner = Lowering::new(&b, body, self.model, self.half, body.outputs().iter().copied().collect());
        for (&id, (is_half, traits)) in body.captured().iter().zip(outside) {
            inner.traits.insert(id, *traits);
            if *is_half && b.fact(id).dtype == Some(DType::F32) {
                b.assume(id, Fact { dtype: Some(self.half), ..b.fact(id) });
                inner.lowered.insert(id);
            }
        }
        b.scoped(scope, || inner.run())?;
        b.infer_again();
        b.finish()
    }
}

/// Whether a constant has numbers beyond the range of half precision.
fn is_wild(tensor: &Tensor, half: DType) -> bool {
    const MOST: usize = 1 << 22;
    let numbers = || tensor.to_f32().unwrap_or_default();
    tensor.dtype() == DType::F32 && tensor.len() <= MOST && numbers().iter().any(|number| f64::from(number.abs()) > largest(half))
}

/// The largest number of a type of half precision.
fn largest(half: DType) -> f64 {
    f64::from(if half == DType::F16 { half::f16::MAX.to_f32() } else { half::bf16::MAX.to_f32() })
}

fn clamped(number: f64, half: DType) -> f64 {
    number.clamp(-largest(half), largest(half))
}
