//! A finished graph: sorted, typed, read-only.

pub(super) mod attr;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

use super::fact::Fact;
use super::graph::attr::Attr;
use super::tensor::Tensor;

/// A value of a graph: a data input, an initializer, or an output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// A node of a finished graph: its place in the order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

macro_rules! id {
    ($id:ident) => {
        impl $id {
            pub(crate) fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("fewer than 2^32 values and nodes"))
            }
            /// The position in the graph's table.
            #[must_use]
            pub fn index(self) -> usize {
                usize::try_from(self.0).expect("a usize has at least 32 bits")
            }
        }
    };
}
id!(ValueId);
id!(NodeId);

/// A name and what is known of the value that bears it.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique in the graph.
    pub name: Arc<str>,
    /// What is known before the graph runs.
    pub fact: Fact,
    /// What the file said of the value (an encoded `ValueInfoProto`), kept to be written back.
    pub declared: Option<Bytes>,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// For people; may be empty, need not be unique in a loaded graph.
    pub name: Arc<str>,
    /// The operator, with its domain in front unless that is ONNX's own: `MatMul`, `com.microsoft:BiasGelu`.
    pub op: Arc<str>,
    /// `None` where an optional input was left out.
    pub inputs: Vec<Option<ValueId>>,
    /// `None` where an optional output was left out.
    pub outputs: Vec<Option<ValueId>>,
    /// By name.
    pub attrs: IndexMap<Arc<str>, Attr>,
    /// Values that the node's bodies read, in the order of the bodies' [`Graph::captured`].
    pub captures: Vec<ValueId>,
    /// Free-form annotations; exporters leave module paths here.
    pub metadata: Vec<(Arc<str>, Arc<str>)>,
    /// What else the file said of the node (an encoded `NodeProto`), kept to be written back.
    pub extra: Option<Bytes>,
}

/// The key of a node's annotation that says that gradient does not pass it.
pub const NO_GRADIENT: &str = "peft-onnx:no-gradient";

/// The key of an annotation of a view that changes nothing but waits for something: it is not looked through, nor left out.
pub const LATER: &str = "peft-onnx:later";

/// How many `Identity` in a row are names for one value. Nobody writes so many; looking through all of a longer chain for each of its values would take
/// time that grows with its square.
pub(super) const MOST_NAMES: usize = 64;

impl Node {
    /// What an `Identity` gives another name.
    pub(super) fn named(&self) -> Option<ValueId> {
        if &*self.op == "Identity" { self.input(0) } else { None }
    }

    /// What a `Constant` holds.
    pub(super) fn constant(&self) -> Option<&Tensor> {
        match (&*self.op, self.attrs.get("value")) {
            ("Constant", Some(Attr::Tensor(tensor))) => Some(tensor),
            _ => None,
        }
    }

    /// Whether the node changes nothing and stays nevertheless: it waits for something ([`LATER`]), or gradient does not pass it ([`NO_GRADIENT`]),
    /// which who follows the loss wants to know.
    #[must_use]
    pub fn is_fence(&self) -> bool {
        [LATER, NO_GRADIENT].iter().any(|key| self.metadata(key).is_some())
    }

    /// Every value the node needs, captured ones too.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().copied().chain(self.captures.iter().copied())
    }

    /// Every value the node makes.
    pub fn writes(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flatten().copied()
    }

    /// Input `index`, unless it was left out.
    #[must_use]
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, unless it was left out.
    #[must_use]
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// An integer attribute, or the default that the operator's page gives.
    #[must_use]
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attrs.get(name).and_then(Attr::as_int).unwrap_or(default)
    }

    /// A float attribute, or the default that the operator's page gives.
    #[must_use]
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attrs.get(name) {
            Some(Attr::Float(value)) => *value,
            _ => default,
        }
    }

    /// A list of integers, if the attribute is there.
    #[must_use]
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attrs.get(name) {
            Some(Attr::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// A string attribute, if it is there.
    #[must_use]
    pub fn str(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Attr::as_str)
    }

    /// The operator's domain (empty for ONNX's own) and its bare name.
    #[must_use]
    pub fn domain_and_name(&self) -> (&str, &str) {
        self.op.rsplit_once(':').unwrap_or(("", &self.op))
    }

    /// An annotation.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }
}

/// A place where a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The reader.
    pub node: NodeId,
    /// The position among the node's inputs; `None` if a body of the node reads it.
    pub input: Option<usize>,
}

/// The version of one operator set that a model uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opset {
    /// Empty for ONNX's own.
    pub domain: Arc<str>,
    /// The version.
    pub version: i64,
}

/// What a model file says beside its graph.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// Version of the file format.
    pub ir_version: i64,
    /// Operator sets, ONNX's own among them.
    pub opsets: Vec<Opset>,
    /// Everything else (an encoded `ModelProto` without graph), kept to be written back.
    pub rest: Option<Bytes>,
}

impl ModelInfo {
    /// The information for a graph written from nothing in the dialect spoken inside: opset 18, IR version 8.
    #[must_use]
    pub fn dialect() -> Self {
        Self { ir_version: 8, opsets: vec![Opset { domain: "".into(), version: super::DIALECT }], rest: None }
    }

    /// The version of ONNX's own operator set; 1 if the file names none.
    #[must_use]
    pub fn opset(&self) -> i64 {
        self.version_of("").unwrap_or(1)
    }

    /// The version of a domain's operator set, if the model names it.
    #[must_use]
    pub fn version_of(&self, domain: &str) -> Option<i64> {
        self.opsets.iter().find(|o| &*o.domain == domain).map(|o| o.version)
    }

    /// The same information with another version of a domain's operator set.
    #[must_use]
    pub fn with_opset(mut self, domain: &str, version: i64) -> Self {
        match self.opsets.iter_mut().find(|o| &*o.domain == domain) {
            Some(opset) => opset.version = version,
            None => self.opsets.push(Opset { domain: domain.into(), version }),
        }
        self
    }
}

/// A finished graph. Nodes stand after the nodes whose values they read; every value has a unique name and a [`Fact`].
///
/// Only a [`Builder`](super::Builder) makes one; it never changes afterwards, so that clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) name: Arc<str>,
    pub(super) model: ModelInfo,
    pub(super) values: Arc<Vec<Value>>,
    pub(super) nodes: Arc<Vec<Node>>,
    /// In the order of their ids.
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    pub(super) captured: Vec<ValueId>,
    pub(super) initializers: Arc<BTreeMap<ValueId, Tensor>>,
    pub(super) extra: Option<Bytes>,
    pub(super) index: Arc<Index>,
}

/// Who writes and who reads the values of a finished graph, by their ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    producers: Vec<Option<NodeId>>,
    uses: Vec<Vec<Use>>,
    is_output: Vec<bool>,
}

impl Graph {
    /// The graph's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// What the file says beside the graph.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.model
    }
    /// The same graph, of whose file something else is said.
    #[must_use]
    pub fn with_model(self, model: ModelInfo) -> Self {
        Self { model, ..self }
    }
    /// What else the file said of the graph (an encoded `GraphProto`), kept to be written back.
    #[must_use]
    pub fn extra(&self) -> Option<&Bytes> {
        self.extra.as_ref()
    }
    /// All values; the index is the [`ValueId`].
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }
    /// All values with their ids.
    pub fn value_ids(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, value)| (ValueId::new(i), value))
    }
    /// All nodes in the order of execution; the index is the [`NodeId`].
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// All nodes with their ids.
    pub fn node_ids(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, node)| (NodeId::new(i), node))
    }
    /// The inputs, those with a default value among them.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }
    /// Whether a value is an input, with a default value or without.
    #[must_use]
    pub fn is_input(&self, id: ValueId) -> bool {
        self.inputs.binary_search(&id).is_ok()
    }
    /// The inputs that have no default: what a caller must feed.
    pub fn data_inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().copied().filter(|id| !self.initializers.contains_key(id))
    }
    /// The outputs.
    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }
    /// Whether a value is an output.
    #[must_use]
    pub fn is_output(&self, id: ValueId) -> bool {
        self.index.is_output.get(id.index()).is_some_and(|is| *is)
    }
    /// In a body: the values that come from the graph around it.
    #[must_use]
    pub fn captured(&self) -> &[ValueId] {
        &self.captured
    }
    /// Every constant that is stored beside the nodes.
    pub fn initializers(&self) -> impl Iterator<Item = (ValueId, &Tensor)> {
        self.initializers.iter().map(|(id, tensor)| (*id, tensor))
    }
    /// The constant behind a value, if it is an initializer.
    #[must_use]
    pub fn initializer(&self, id: ValueId) -> Option<&Tensor> {
        self.initializers.get(&id)
    }
    /// A value's table entry.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }
    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }
    /// A value's fact.
    #[must_use]
    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.value(id).fact
    }
    /// A value's name.
    #[must_use]
    pub fn value_name(&self, id: ValueId) -> &str {
        &self.value(id).name
    }
    /// The node that makes a value; none for a value of a graph that was written on top of this one.
    #[must_use]
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        self.index.producers.get(id.index()).copied().flatten()
    }
    /// The places where a value is read. Being an output of the graph is not among them.
    #[must_use]
    pub fn uses(&self, id: ValueId) -> &[Use] {
        self.index.uses.get(id.index()).map_or(&[], Vec::as_slice)
    }
    /// The value of a name. Takes time linear in the number of values.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| &*v.name == name).map(ValueId::new)
    }
    /// A constant that a value certainly is: an initializer that no caller can override, or the output of a `Constant` node.
    #[must_use]
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        let origin = self.origin(id);
        if let Some(tensor) = self.initializers.get(&origin) {
            return (!self.is_input(origin)).then_some(tensor);
        }
        self.node(self.producer(origin)?).constant()
    }
    /// What a value is before anything is computed: an initializer, overridable or not, or a constant as [`constant`](Self::constant) finds it, behind
    /// the `Identity` by which exporters name a parameter that equals another one.
    #[must_use]
    pub fn stored(&self, id: ValueId) -> Option<&Tensor> {
        self.initializer(id).or_else(|| self.constant(id))
    }
    /// The value before any `Identity`, of which 64 in a row are looked through.
    #[must_use]
    pub fn origin(&self, id: ValueId) -> ValueId {
        let mut origin = id;
        for _ in 0..MOST_NAMES {
            let Some(input) = self.producer(origin).and_then(|node| self.node(node).named()) else { break };
            origin = input;
        }
        origin
    }
    /// A name for messages: the node's own, or its first output's where it has none.
    #[must_use]
    pub fn node_label(&self, id: NodeId) -> String {
        let node = self.node(id);
        match (node.name.is_empty(), node.writes().next()) {
            (true, Some(output)) => format!("{} -> {}", node.op, self.value_name(output)),
            _ => node.name.to_string(),
        }
    }

    /// The same graph with its nodes in another order; the order it had if the other would put a node before one that it reads from.
    #[must_use]
    pub fn in_order(self, order: &[NodeId]) -> Self {
        let mut place = vec![None; self.nodes.len()];
        for (i, id) in order.iter().enumerate() {
            place[id.index()] = Some(i);
        }
        let sound = order.len() == self.nodes.len()
            && self.node_ids().all(|(id, node)| {
                node.reads()
                    .filter_map(|value| self.producer(value))
                    .all(|before| place[before.index()].is_some() && place[before.index()] < place[id.index()])
            });
        if !sound {
            return self;
        }
        let nodes: Vec<Node> = order.iter().map(|id| self.nodes[id.index()].clone()).collect();
        Self { nodes: Arc::new(nodes), ..self }.indexed()
    }

    /// Fills the tables of producers, uses and outputs.
    pub(super) fn indexed(mut self) -> Self {
        let count = self.values.len();
        let mut index = Index { producers: vec![None; count], uses: vec![Vec::new(); count], is_output: vec![false; count] };
        for output in &self.outputs {
            index.is_output[output.index()] = true;
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let id = NodeId::new(i);
            for output in node.writes() {
                index.producers[output.index()] = Some(id);
            }
            for (position, input) in node.inputs.iter().enumerate() {
                if let Some(input) = input {
                    index.uses[input.index()].push(Use { node: id, input: Some(position) });
                }
            }
            for captured in &node.captures {
                index.uses[captured.index()].push(Use { node: id, input: None });
            }
        }
        self.index = Arc::new(index);
        self
    }

    /// The values, to be changed: copied first where another graph has them too.
    pub(super) fn values_mut(&mut self) -> &mut Vec<Value> {
        Arc::make_mut(&mut self.values)
    }

    /// The nodes, to be changed: copied first where another graph has them too.
    pub(super) fn nodes_mut(&mut self) -> &mut Vec<Node> {
        Arc::make_mut(&mut self.nodes)
    }

    /// The constants, to be changed: copied first where another graph has them too.
    pub(super) fn initializers_mut(&mut self) -> &mut BTreeMap<ValueId, Tensor> {
        Arc::make_mut(&mut self.initializers)
    }
}
