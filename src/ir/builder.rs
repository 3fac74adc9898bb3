//! Writing graphs.

pub(super) mod expr;
mod finish;
mod inputs;
mod nodes;
mod rewire;
mod splice;

use std::cell::RefCell;
use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};

use finish::{Keep, sorted};
pub use splice::Renaming;

use super::builder::expr::Expr;
use super::dim::Dim;
use super::dtype::DType;
use super::fact::Fact;
use super::graph::attr::Attr;
use super::graph::{Graph, MOST_NAMES, ModelInfo, Node, Value, ValueId};
use super::tensor::Tensor;
use crate::error::{Error, Result};

/// A graph being written.
///
/// * Each node's outputs get their [`Fact`]s at once. A node that cannot be is the builder's first error; it is kept, its outputs are
///   unknown, later nodes accept them, and [`finish`](Self::finish) returns the error. So code that writes nodes needs no `?`.
/// * Equal nodes are written once. Nodes of a loaded graph are left alone: reusing their inner values would keep ONNX Runtime from
///   fusing them.
/// * Values keep their ids from one graph to the next: what was found in a finished graph is still right in one written on top of it.
///
/// ```
/// use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
/// let b = Builder::new(ModelInfo::dialect());
/// let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
/// b.output("y", 2.0 * x.tanh() + 1.0);
/// let graph = b.finish()?;
/// assert_eq!(graph.nodes().len(), 3);
/// # Ok::<(), peft_onnx::Error>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    graph: Graph,
    outputs: Vec<(Arc<str>, ValueId)>,
    /// In a body: where each captured value comes from in the graph around it.
    captures: Vec<ValueId>,
    /// The same backwards: the value in the body, by where it comes from.
    captured: FxHashMap<ValueId, ValueId>,
    names: FxHashSet<Arc<str>>,
    counters: FxHashMap<String, usize>,
    interned: FxHashMap<Key, Vec<ValueId>>,
    constants: FxHashMap<(DType, Vec<usize>, Vec<u8>), ValueId>,
    /// For each value, the places in `graph.nodes` of the nodes that read it, as often as they do; may name nodes that no longer do.
    readers: Vec<Vec<usize>>,
    /// For each value, the place in `graph.nodes` of the node that writes it.
    writers: Vec<Option<usize>>,
    /// What readers were given in a value's place.
    rewired: FxHashMap<ValueId, ValueId>,
    /// Vectors of one element, int64, that hold what a symbol stands for: of lengths that no input has.
    lengths: FxHashMap<Dim, ValueId>,
    scope: String,
    error: Option<Error>,
    /// What becomes of nodes whose inputs can never go together.
    impossible: Impossible,
}

/// What becomes of nodes whose inputs can never go together.
#[derive(Debug, Default, PartialEq, Eq)]
enum Impossible {
    /// The graph cannot be finished.
    #[default]
    Refused,
    /// Nothing is known of their outputs.
    Unknown,
}

/// What makes two nodes equal.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    op: String,
    inputs: Vec<Option<ValueId>>,
    attrs: Vec<(String, Attr)>,
    outputs: usize,
}

/// Constants of up to this many bytes are written once however often they are asked for.
const SHARED_CONSTANT_BYTES: usize = 1024;

/// A finished body and the values of the graph around it that it reads, in the order of its [`Graph::captured`].
#[derive(Debug)]
pub struct Body {
    /// The body.
    pub graph: Graph,
    /// Values of the graph around it.
    pub captures: Vec<ValueId>,
}

/// Everything a node is, before it is written. Used for nodes that are read from a file and for nodes with bodies.
#[derive(Debug, Default)]
pub struct NodeSpec {
    /// The node's name; empty for one made from scope and operator.
    pub name: Arc<str>,
    /// The operator, with its domain in front.
    pub op: Arc<str>,
    /// Inputs.
    pub inputs: Vec<Option<ValueId>>,
    /// Names of the outputs, `None` for those left out.
    pub outputs: Vec<Option<Arc<str>>>,
    /// Attributes.
    pub attrs: IndexMap<Arc<str>, Attr>,
    /// Values of this graph that the bodies read.
    pub captures: Vec<ValueId>,
    /// Annotations.
    pub metadata: Vec<(Arc<str>, Arc<str>)>,
    /// The rest of the file's words on the node.
    pub extra: Option<bytes::Bytes>,
}

impl Builder {
    /// Starts an empty graph.
    #[must_use]
    pub fn new(model: ModelInfo) -> Self {
        let graph = Graph { model, name: "graph".into(), ..Graph::default() };
        Self { state: RefCell::new(State { graph, ..State::default() }) }
    }

    /// Starts from a finished graph. Its values keep their ids.
    #[must_use]
    pub fn on(graph: &Graph) -> Self {
        let names = graph.values.iter().map(|v| Arc::clone(&v.name)).chain(graph.nodes.iter().map(|n| Arc::clone(&n.name))).collect();
        let outputs = graph.outputs.iter().map(|&id| (Arc::clone(&graph.value(id).name), id)).collect();
        let mut state = State { graph: graph.clone(), outputs, names, ..State::default() };
        state.readers.resize(graph.values.len(), vec![]);
        state.writers.resize(graph.values.len(), None);
        for place in 0..graph.nodes.len() {
            state.index(place);
        }
        Self { state: RefCell::new(state) }
    }

    /// Starts a body for a node of this graph (`Loop`, `If`, `Scan`). It reads this graph's values through [`capture`](Self::capture).
    #[must_use]
    pub fn body(&self, name: &str) -> Self {
        let model = self.state.borrow().graph.model.clone();
        let body = Self::new(model);
        {
            let mut state = body.state.borrow_mut();
            state.graph.name = name.into();
            // Names in a body must differ from those around it.
            state.scope = format!("{}{name}/", self.state.borrow().scope);
        }
        body
    }

    /// Starts from a finished body of a node of this graph. Its values keep their ids; `captures` are the values of this graph that it reads.
    #[must_use]
    pub fn body_of(&self, body: &Graph, captures: &[ValueId]) -> Self {
        let b = Self::on(body);
        {
            let mut state = b.state.borrow_mut();
            state.captures = captures.to_vec();
            state.captured = captures.iter().copied().zip(body.captured.iter().copied()).collect();
        }
        b
    }

    /// Accepts nodes whose inputs can never go together. A body that is read may have some: the branch that is for other shapes.
    pub fn may_not_run(&self) {
        self.state.borrow_mut().impossible = Impossible::Unknown;
    }

    /// In a body: the value of the graph around it.
    pub fn capture(&self, outer: Expr<'_>) -> Expr<'_> {
        let value = Value { name: outer.name(), fact: outer.fact(), declared: None };
        let mut state = self.state.borrow_mut();
        if let Some(&id) = state.captured.get(&outer.id()) {
            return Expr::new(self, id);
        }
        if !state.names.insert(Arc::clone(&value.name)) {
            state.step_back(&value.name);
        }
        let id = state.push(value);
        state.graph.captured.push(id);
        state.captures.push(outer.id());
        state.captured.insert(outer.id(), id);
        drop(state);
        Expr::new(self, id)
    }

    /// Names the graph and keeps what else its file said of it.
    pub fn describe(&self, name: &str, extra: Option<bytes::Bytes>) {
        let mut state = self.state.borrow_mut();
        state.graph.name = name.into();
        state.graph.extra = extra;
    }

    /// Replaces what the file says beside the graph.
    pub fn set_model(&self, model: ModelInfo) {
        self.state.borrow_mut().graph.model = model;
    }

    /// What the file says beside the graph.
    #[must_use]
    pub fn model(&self) -> ModelInfo {
        self.state.borrow().graph.model.clone()
    }

    /// A value by its id.
    #[must_use]
    pub fn expr(&self, id: ValueId) -> Expr<'_> {
        Expr::new(self, id)
    }

    /// What readers of a value read now: the value, or what they were rewired to.
    #[must_use]
    pub fn current(&self, id: ValueId) -> Expr<'_> {
        let mut at = id;
        while let Some(&next) = self.state.borrow().rewired.get(&at) {
            at = next;
        }
        self.expr(at)
    }

    /// The node that makes a value, as it is now; none for inputs and constants.
    #[must_use]
    pub fn maker(&self, id: ValueId) -> Option<Node> {
        let state = self.state.borrow();
        state.writers.get(id.index()).copied().flatten().map(|place| state.graph.nodes[place].clone())
    }

    /// The nodes that were written so far, in the order of writing.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.state.borrow().graph.nodes.to_vec()
    }

    /// How many nodes were written so far.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.state.borrow().graph.nodes.len()
    }

    /// The nodes that were written behind the first `count`.
    #[must_use]
    pub fn nodes_from(&self, count: usize) -> Vec<Node> {
        self.state.borrow().graph.nodes.get(count..).unwrap_or_default().to_vec()
    }

    /// The nodes that were written so far, each after those it reads from.
    ///
    /// # Errors
    /// A cycle.
    pub fn sorted_nodes(&self) -> Result<Vec<Node>> {
        let nodes = self.nodes();
        sorted(nodes, &self.state.borrow().graph, Keep::Everything)
    }

    /// The inputs so far.
    pub fn inputs(&self) -> Vec<Expr<'_>> {
        self.state.borrow().graph.inputs.iter().map(|&id| Expr::new(self, id)).collect()
    }

    /// The values that are there before any node runs and that callers choose: the inputs, and in a body what it reads of the graph
    /// around it.
    pub(super) fn sources(&self) -> Vec<Expr<'_>> {
        let state = self.state.borrow();
        state.graph.inputs.iter().chain(&state.graph.captured).map(|&id| Expr::new(self, id)).collect()
    }

    /// Says which vector of one element, int64, holds the length that `symbol` stands for, where no input has an axis of it.
    pub fn tell_length(&self, symbol: &Dim, length: Expr<'_>) {
        self.state.borrow_mut().lengths.insert(symbol.clone(), length.id());
    }

    /// The vector that was told for a symbol.
    pub(super) fn told_length(&self, symbol: &Dim) -> Option<Expr<'_>> {
        self.state.borrow().lengths.get(symbol).map(|&id| Expr::new(self, id))
    }

    /// The value that is output under a name.
    pub fn output_named(&self, name: &str) -> Option<Expr<'_>> {
        self.state.borrow().outputs.iter().find(|(n, _)| &**n == name).map(|(_, id)| Expr::new(self, *id))
    }

    /// What is known of a value.
    #[must_use]
    pub fn fact(&self, id: ValueId) -> Fact {
        self.state.borrow().graph.values[id.index()].fact.clone()
    }

    /// The input of a name.
    pub fn input_named(&self, name: &str) -> Option<Expr<'_>> {
        let state = self.state.borrow();
        let id = state.graph.inputs.iter().copied().find(|id| &*state.graph.values[id.index()].name == name);
        id.map(|id| Expr::new(self, id))
    }

    /// A value's name.
    #[must_use]
    pub fn name(&self, id: ValueId) -> Arc<str> {
        Arc::clone(&self.state.borrow().graph.values[id.index()].name)
    }

    /// Keeps the first error, for [`finish`](Self::finish).
    pub fn fail(&self, error: Error) {
        self.state.borrow_mut().error.get_or_insert(error);
    }

    /// A value of which nothing is known and which no node makes: what stands for a result after [`fail`](Self::fail).
    #[must_use]
    pub fn unknown(&self) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim("unknown");
        let id = state.push(Value { name, fact: Fact::unknown(), declared: None });
        drop(state);
        Expr::new(self, id)
    }

    /// Ends the writing: nodes sorted, those that no output needs left out, unused constants too.
    ///
    /// # Errors
    /// The first error met while writing; a cycle.
    pub fn finish(self) -> Result<Graph> {
        self.state.into_inner().finish(Keep::Needed)
    }

    /// Ends the writing with every node and constant kept, as for a file that is read.
    ///
    /// # Errors
    /// The first error met while writing; a cycle.
    pub fn finish_whole(self) -> Result<Graph> {
        self.state.into_inner().finish(Keep::Everything)
    }

    /// Ends the writing of a graph that began as `start`: what lost its last reader since is left out, what nobody needed there stays.
    ///
    /// # Errors
    /// The first error met while writing; a cycle.
    pub fn finish_changed(self, start: &Graph) -> Result<Graph> {
        let idle = finish::idle(start);
        self.state.into_inner().finish(Keep::NeededOr(&idle))
    }

    /// Ends the writing of a body with every node and constant kept, as for a file that is read.
    ///
    /// # Errors
    /// The first error met while writing; a cycle.
    pub fn finish_whole_body(self) -> Result<Body> {
        let mut state = self.state.into_inner();
        let captures = std::mem::take(&mut state.captures);
        Ok(Body { graph: state.finish(Keep::Everything)?, captures })
    }

    /// Ends the writing of a body.
    ///
    /// # Errors
    /// The first error met while writing; a cycle.
    pub fn finish_body(self) -> Result<Body> {
        let mut state = self.state.into_inner();
        let captures = std::mem::take(&mut state.captures);
        Ok(Body { graph: state.finish(Keep::Needed)?, captures })
    }
}

impl State {
    /// Notes what the node at `place` reads and writes.
    fn index(&mut self, place: usize) {
        let node = &self.graph.nodes[place];
        for id in node.reads() {
            self.readers[id.index()].push(place);
        }
        for id in node.writes() {
            self.writers[id.index()] = Some(place);
        }
    }

    fn push(&mut self, value: Value) -> ValueId {
        self.graph.values_mut().push(value);
        self.readers.push(vec![]);
        self.writers.push(None);
        ValueId::new(self.graph.values.len() - 1)
    }

    /// Gives the value that bears a name another one: what a body names itself must not hide what it reads around it.
    fn step_back(&mut self, name: &Arc<str>) {
        let Some(at) = self.graph.values.iter().position(|value| value.name == *name) else { return };
        let other = self.claim(name);
        self.outputs.iter_mut().filter(|(output, _)| output == name).for_each(|(output, _)| *output = Arc::clone(&other));
        self.graph.values_mut()[at].name = other;
    }

    /// The wanted name, or the wanted name with the first number that makes it unique.
    fn claim(&mut self, wanted: &str) -> Arc<str> {
        let mut name: Arc<str> = wanted.into();
        while !self.names.insert(Arc::clone(&name)) {
            let counter = self.counters.entry(wanted.to_owned()).or_insert(0);
            *counter += 1;
            name = format!("{wanted}_{counter}").into();
        }
        name
    }

    /// The constant behind a value: an initializer that no caller can override, or what a `Constant` node holds.
    fn constant(&self, id: ValueId) -> Option<&Tensor> {
        let writer = |id: ValueId| Some(&self.graph.nodes[self.writers[id.index()]?]);
        let mut origin = id;
        for _ in 0..MOST_NAMES {
            if let Some(tensor) = self.graph.initializers.get(&origin) {
                return (!self.graph.is_input(origin)).then_some(tensor);
            }
            let node = writer(origin)?;
            let Some(input) = node.named() else { return node.constant() };
            origin = input;
        }
        None
    }
}
