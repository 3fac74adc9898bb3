//! Means to walk a finished graph: every step either arrives or says what it missed.

use crate::ir::{Attr, Fact, Graph, Node, NodeId, Tensor, Trait, ValueId};

use super::flow;

/// Why a search stopped: shown by `inspect --explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Node or value.
    pub at: String,
    /// What would have been recognised there.
    pub wanted: String,
}

/// What a step gives.
pub(super) type Found<T> = Result<T, Miss>;

/// A value of a finished graph, with the means to walk from it.
#[derive(Clone, Copy)]
pub(super) struct ValueRef<'g> {
    graph: &'g Graph,
    id: ValueId,
}

/// A node of a finished graph, with the means to walk from it.
#[derive(Clone, Copy)]
pub(super) struct NodeRef<'g> {
    graph: &'g Graph,
    id: NodeId,
}

impl<'g> ValueRef<'g> {
    pub(super) fn new(graph: &'g Graph, id: ValueId) -> Self {
        Self { graph, id }
    }

    pub(super) fn id(self) -> ValueId {
        self.id
    }

    pub(super) fn name(self) -> &'g str {
        self.graph.value_name(self.id)
    }

    /// Nothing of the kind that was wanted stands here.
    pub(super) fn miss(self, wanted: impl Into<String>) -> Miss {
        Miss { at: self.name().to_owned(), wanted: wanted.into() }
    }

    pub(super) fn fact(self) -> &'g Fact {
        self.graph.fact(self.id)
    }

    /// The length of an axis, if it is known.
    pub(super) fn length(self, axis: usize) -> Option<i64> {
        self.fact().shape.as_ref()?.get(axis)?.as_known()
    }

    /// The node that writes this value.
    pub(super) fn producer(self) -> Option<NodeRef<'g>> {
        self.graph.producer(self.id).map(|id| NodeRef { graph: self.graph, id })
    }

    /// The node that writes this value, if it is one of `ops`.
    pub(super) fn from(self, ops: &[&str]) -> Found<NodeRef<'g>> {
        self.producer().filter(|node| node.is(ops)).ok_or_else(|| self.miss(format!("a value from {}", ops.join(" or "))))
    }

    /// The one node that reads this value, if it is one of `ops`.
    pub(super) fn into(self, ops: &[&str]) -> Found<NodeRef<'g>> {
        let mut readers = self.readers();
        match (readers.next(), readers.next()) {
            (Some(node), None) if node.is(ops) && !self.is_output() => Ok(node),
            _ => Err(self.miss(format!("one use, by {}", ops.join(" or ")))),
        }
    }

    /// The nodes that read this value, once for each time they do.
    pub(super) fn readers(self) -> impl Iterator<Item = NodeRef<'g>> {
        self.graph.uses(self.id).iter().map(move |a_use| NodeRef { graph: self.graph, id: a_use.node })
    }

    /// The value before any run of `ops`, each of which passes its first input on.
    pub(super) fn behind(self, ops: &[&str]) -> Self {
        let mut value = self;
        while let Ok(input) = value.from(ops).and_then(|node| node.input(0)) {
            value = input;
        }
        value
    }

    /// Whether the graph gives this value to its caller.
    pub(super) fn is_output(self) -> bool {
        self.graph.is_output(self.id)
    }

    /// The constant that is stored under this very value: an initializer, overridable or not, or a `Constant` node.
    pub(super) fn stored(self) -> Option<&'g Tensor> {
        self.graph.stored(self.id)
    }

    /// Whether a constant stands behind this value, perhaps in another layout or type.
    pub(super) fn is_constant(self) -> bool {
        self.behind(&["Identity", "Cast", "Transpose", "Reshape", "Expand", "Tile"]).stored().is_some()
    }

    /// Whether this is computed from constants alone.
    pub(super) fn is_fixed(self) -> bool {
        self.is_fixed_within(8)
    }

    fn is_fixed_within(self, steps: usize) -> bool {
        if self.stored().is_some() {
            return true;
        }
        let node = self.producer().filter(|_| steps > 0);
        node.is_some_and(|node| node.inputs().next().is_some() && node.inputs().all(|input| input.is_fixed_within(steps - 1)))
    }

    /// Whether this is a single number, known or not.
    pub(super) fn is_single(self) -> bool {
        match self.fact().shape.as_deref() {
            Some(shape) => shape.iter().all(|dim| dim.as_known() == Some(1)),
            None => self.number().is_some(),
        }
    }

    /// The number, if this is a single one that can be told without running the graph.
    pub(super) fn number(self) -> Option<f64> {
        self.number_within(16)
    }

    /// Exporters compute `1/√d` from the shape of the queries: some arithmetic has to be followed.
    fn number_within(self, steps: usize) -> Option<f64> {
        if let Some(constant) = self.stored() {
            return constant.scalar();
        }
        if let Some(&[known]) = self.fact().known_contents().as_deref() {
            return i32::try_from(known).ok().map(f64::from);
        }
        let node = self.producer().filter(|_| steps > 0)?;
        let input = |index: usize| node.input(index).ok()?.number_within(steps - 1);
        match node.op() {
            "Cast" | "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" => input(0),
            "Sqrt" => Some(input(0)?.sqrt()),
            "Reciprocal" => Some(input(0)?.recip()),
            "Mul" => Some(input(0)? * input(1)?),
            "Div" => Some(input(0)? / input(1)?),
            "Add" => Some(input(0)? + input(1)?),
            "Sub" => Some(input(0)? - input(1)?),
            "Pow" => Some(input(0)?.powf(input(1)?)),
            "ConstantOfShape" if self.is_single() => match node.node().attrs.get("value") {
                Some(Attr::Tensor(value)) => value.scalar(),
                _ => Some(0.0),
            },
            _ => None,
        }
    }
}

impl<'g> NodeRef<'g> {
    pub(super) fn new(graph: &'g Graph, id: NodeId) -> Self {
        Self { graph, id }
    }

    pub(super) fn id(self) -> NodeId {
        self.id
    }

    pub(super) fn graph(self) -> &'g Graph {
        self.graph
    }

    pub(super) fn node(self) -> &'g Node {
        self.graph.node(self.id)
    }

    pub(super) fn op(self) -> &'g str {
        &self.node().op
    }

    pub(super) fn is(self, ops: &[&str]) -> bool {
        ops.contains(&self.op())
    }

    pub(super) fn has(self, property: Trait) -> bool {
        property.is_of(self.op())
    }

    pub(super) fn label(self) -> String {
        self.graph.node_label(self.id)
    }

    /// Nothing of the kind that was wanted stands here.
    pub(super) fn miss(self, wanted: impl Into<String>) -> Miss {
        Miss { at: self.label(), wanted: wanted.into() }
    }

    pub(super) fn input(self, index: usize) -> Found<ValueRef<'g>> {
        let id = self.node().input(index).ok_or_else(|| self.miss(format!("an input {index}")))?;
        Ok(ValueRef { graph: self.graph, id })
    }

    pub(super) fn output(self, index: usize) -> Found<ValueRef<'g>> {
        let id = self.node().output(index).ok_or_else(|| self.miss(format!("an output {index}")))?;
        Ok(ValueRef { graph: self.graph, id })
    }

    /// Inputs whose numbers are in the output, not only their shape or their order.
    pub(super) fn data_inputs(self) -> impl Iterator<Item = ValueRef<'g>> {
        flow::data_inputs(self.node()).map(move |id| ValueRef { graph: self.graph, id })
    }

    /// Inputs that are there.
    pub(super) fn inputs(self) -> impl Iterator<Item = ValueRef<'g>> {
        self.node().inputs.iter().flatten().map(move |&id| ValueRef { graph: self.graph, id })
    }
}
