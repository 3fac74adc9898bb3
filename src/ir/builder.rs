//! Writing graphs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::attr::Attr;
use super::dim::Dim;
use super::expr::Expr;
use super::fact::{DType, Fact};
use super::graph::{Graph, ModelInfo, Node, Value, ValueId};
use super::infer;
use super::tensor::Tensor;
use crate::error::{Error, ErrorKind, Place, Result};

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
    names: HashSet<Arc<str>>,
    counters: HashMap<String, usize>,
    interned: HashMap<Key, Vec<ValueId>>,
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), ValueId>,
    /// For each value, the places in `graph.nodes` of the nodes that read it, as often as they do; may name nodes that no longer do.
    readers: Vec<Vec<usize>>,
    /// For each value, the place in `graph.nodes` of the node that writes it.
    writers: Vec<Option<usize>>,
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

/// Operators that give something else each time they run.
pub(super) const RANDOM: &[&str] =
    &["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"];

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

    /// Accepts nodes whose inputs can never go together. A body that is read may have some: the branch that is for other shapes.
    pub fn may_not_run(&self) {
        self.state.borrow_mut().impossible = Impossible::Unknown;
    }

    /// In a body: the value of the graph around it.
    pub fn capture(&self, outer: Expr<'_>) -> Expr<'_> {
        let value = Value { name: outer.name(), fact: outer.fact(), declared: None };
        let mut state = self.state.borrow_mut();
        if let Some(at) = state.captures.iter().position(|&id| id == outer.id()) {
            let id = state.graph.captured[at];
            return Expr::new(self, id);
        }
        state.names.insert(Arc::clone(&value.name));
        let id = state.push(value);
        state.graph.captured.push(id);
        state.captures.push(outer.id());
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

    /// Adds an input that callers must feed.
    pub fn input(&self, name: &str, dtype: DType, shape: &[Dim]) -> Expr<'_> {
        self.input_value(name, Fact::new(dtype, shape.to_vec()), None)
    }

    /// Adds an input of which only `fact` is known, with the file's own words about it.
    pub fn input_value(&self, name: &str, fact: Fact, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact, declared });
        state.graph.inputs.push(id);
        drop(state);
        Expr::new(self, id)
    }

    /// Adds an input with a default value: an initializer that callers may override (an *optional input*).
    pub fn optional_input(&self, name: &str, default: Tensor) -> Expr<'_> {
        let input = self.input_value(name, Fact { contents: None, ..Fact::of(&default) }, None);
        self.state.borrow_mut().graph.initializers.insert(input.id(), default);
        input
    }

    /// Takes an input's default value away: callers must feed it.
    pub fn require_input(&self, input: Expr<'_>) {
        self.state.borrow_mut().graph.initializers.remove(&input.id());
    }

    /// Takes an input away: from now on its value is `replacement`.
    pub fn remove_input<'g>(&'g self, input: Expr<'g>, replacement: Expr<'g>) {
        self.rewire(input, |_| replacement);
        let mut state = self.state.borrow_mut();
        state.graph.inputs.retain(|&id| id != input.id());
        state.graph.initializers.remove(&input.id());
    }

    /// Makes a constant of an input with a default value.
    pub fn fix_input(&self, input: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        let Some(fact) = state.graph.initializers.get(&input.id()).map(Fact::of) else { return };
        state.graph.values[input.id().index()].fact = fact;
        state.graph.inputs.retain(|&id| id != input.id());
    }

    /// Adds a named constant.
    pub fn initializer(&self, name: &str, tensor: Tensor) -> Expr<'_> {
        self.initializer_value(name, tensor, None)
    }

    /// Adds a named constant with the file's own words about it.
    pub fn initializer_value(&self, name: &str, tensor: Tensor, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact: Fact::of(&tensor), declared });
        state.graph.initializers.insert(id, tensor);
        drop(state);
        Expr::new(self, id)
    }

    /// Adds a value that neither a node nor a constant held here makes: a sparse initializer, which only the file knows.
    pub fn foreign_value(&self, name: &str, fact: Fact, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact, declared });
        drop(state);
        Expr::new(self, id)
    }

    /// Replaces the data of an initializer.
    pub fn set_initializer(&self, id: ValueId, tensor: Tensor) {
        let mut state = self.state.borrow_mut();
        let overridable = state.graph.inputs.contains(&id);
        let fact = Fact::of(&tensor);
        state.graph.values[id.index()].fact = if overridable { Fact { contents: None, ..fact } } else { fact };
        state.graph.initializers.insert(id, tensor);
    }

    /// A constant; small ones are written once.
    pub fn constant(&self, tensor: Tensor) -> Expr<'_> {
        let small = tensor.bytes().filter(|bytes| bytes.len() <= SHARED_CONSTANT_BYTES);
        let Some(key) = small.map(|bytes| (tensor.dtype(), tensor.shape().to_vec(), bytes.to_vec())) else {
            return self.initializer("constant", tensor);
        };
        if let Some(&id) = self.state.borrow().constants.get(&key) {
            return Expr::new(self, id);
        }
        let scope = self.state.borrow().scope.clone();
        let constant = self.initializer(&format!("{scope}constant"), tensor);
        self.state.borrow_mut().constants.insert(key, constant.id());
        constant
    }

    /// A vector of whole numbers, int64.
    pub fn ints(&self, values: &[i64]) -> Expr<'_> {
        self.constant(Tensor::from_i64(&[values.len()], values))
    }

    /// A whole number, int64, rank 0.
    pub fn int(&self, value: i64) -> Expr<'_> {
        self.constant(Tensor::from_i64(&[], &[value]))
    }

    /// A number of a type, rank 0, rounded once.
    pub fn number(&self, value: f64, dtype: DType) -> Expr<'_> {
        match Tensor::from_f64(dtype, &[], &[value]) {
            Ok(tensor) => self.constant(tensor),
            Err(error) => {
                self.fail(error);
                self.unknown()
            }
        }
    }

    /// Writes a node with one output, or finds the equal one written before. Whole numbers that are known already are a constant.
    pub fn op<'g>(&'g self, op: &str, inputs: &[Expr<'g>], attrs: &[(&str, Attr)]) -> Expr<'g> {
        let inputs: Vec<_> = inputs.iter().map(|&e| Some(e)).collect();
        self.op_n(op, &inputs, attrs, 1)[0]
    }

    /// Writes a node with `outputs` outputs and perhaps missing inputs, or finds the equal one written before.
    pub fn op_n<'g>(&'g self, op: &str, inputs: &[Option<Expr<'g>>], attrs: &[(&str, Attr)], outputs: usize) -> Vec<Expr<'g>> {
        let mut ids: Vec<Option<ValueId>> = inputs.iter().map(|e| e.map(Expr::id)).collect();
        while ids.last() == Some(&None) {
            ids.pop();
        }
        let key = Key {
            op: op.to_owned(),
            inputs: ids.clone(),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            outputs,
        };
        let random = RANDOM.contains(&op);
        if let Some(found) = self.state.borrow().interned.get(&key).filter(|_| !random) {
            return found.iter().map(|&id| Expr::new(self, id)).collect();
        }
        let made = self.node(NodeSpec {
            op: op.into(),
            inputs: ids,
            outputs: vec![Some("".into()); outputs],
            attrs: attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect(),
            ..NodeSpec::default()
        });
        let made: Vec<Expr<'g>> = match made.into_iter().flatten().collect::<Vec<_>>()[..] {
            [only] => vec![self.folded(only)],
            ref several => several.to_vec(),
        };
        if !random {
            self.state.borrow_mut().interned.insert(key, made.iter().map(|e| e.id()).collect());
        }
        made
    }

    /// The constant that a value certainly is, if it is made of whole numbers that facts tell; else the value itself.
    fn folded<'g>(&'g self, value: Expr<'g>) -> Expr<'g> {
        let fact = value.fact();
        let (Some(DType::I64), Some(shape), Some(elements)) = (fact.dtype, fact.known_shape(), fact.known_contents()) else { return value };
        let shape: Vec<usize> = shape.into_iter().filter_map(|length| usize::try_from(length).ok()).collect();
        self.constant(Tensor::from_i64(&shape, &elements))
    }

    /// Writes a node with bodies.
    pub fn op_with_bodies<'g>(&'g self, op: &str, inputs: &[Option<Expr<'g>>], bodies: Vec<(&str, Body)>, outputs: usize) -> Vec<Expr<'g>> {
        let mut spec = NodeSpec {
            op: op.into(),
            inputs: inputs.iter().map(|e| e.map(Expr::id)).collect(),
            outputs: vec![Some("".into()); outputs],
            ..NodeSpec::default()
        };
        for (name, body) in bodies {
            spec.captures.extend(body.captures);
            spec.attrs.insert(name.into(), Attr::Graph(Arc::new(body.graph)));
        }
        self.node(spec).into_iter().flatten().collect()
    }

    /// Writes a node as it is given, without looking for an equal one. An output of the empty name gets one from scope and operator.
    pub fn node(&self, spec: NodeSpec) -> Vec<Option<Expr<'_>>> {
        let facts = self.infer(&spec);
        let mut state = self.state.borrow_mut();
        let label = if spec.name.is_empty() && spec.outputs.iter().flatten().all(|name| name.is_empty()) {
            let (_, bare) = spec.op.rsplit_once(':').unwrap_or(("", &spec.op));
            let wanted = format!("{}{bare}", state.scope);
            state.claim(&wanted)
        } else {
            spec.name
        };
        let mut outputs = Vec::with_capacity(spec.outputs.len());
        for (i, (name, fact)) in spec.outputs.iter().zip(facts).enumerate() {
            outputs.push(name.as_ref().map(|name| {
                let wanted = match (name.is_empty(), spec.outputs.len()) {
                    (false, _) => name.to_string(),
                    (true, 1) => format!("{label}:0"),
                    (true, _) => format!("{label}:{i}"),
                };
                let name = state.claim(&wanted);
                state.push(Value { name, fact, declared: None })
            }));
        }
        state.graph.nodes.push(Node {
            name: label,
            op: spec.op,
            inputs: spec.inputs,
            outputs: outputs.clone(),
            attrs: spec.attrs,
            captures: spec.captures,
            metadata: spec.metadata,
            extra: spec.extra,
        });
        let place = state.graph.nodes.len() - 1;
        state.index(place);
        drop(state);
        outputs.into_iter().map(|id| id.map(|id| Expr::new(self, id))).collect()
    }

    fn infer(&self, spec: &NodeSpec) -> Vec<Fact> {
        let state = self.state.borrow();
        let symbol = spec.outputs.iter().flatten().next().filter(|name| !name.is_empty());
        let symbol = symbol.map_or_else(|| format!("{}{}.{}", state.scope, spec.op, state.graph.nodes.len()), ToString::to_string);
        let inputs = spec.inputs.iter().map(|id| id.map(|id| (&state.graph.values[id.index()].fact, state.constant(id)))).collect();
        let captured = spec.captures.iter().map(|id| &state.graph.values[id.index()].fact).collect();
        let (domain, _) = spec.op.rsplit_once(':').unwrap_or(("", &spec.op));
        let opset = state.graph.model.version_of(domain).unwrap_or(1);
        let question =
            infer::Question { op: &spec.op, opset, inputs, captured, attrs: &spec.attrs, outputs: spec.outputs.len(), symbol: &symbol };
        let answer = infer::infer(&question);
        drop(state);
        match answer {
            Ok(mut facts) => {
                facts.resize(spec.outputs.len(), Fact::unknown());
                facts
            }
            Err(_) if self.state.borrow().impossible == Impossible::Unknown => vec![Fact::unknown(); spec.outputs.len()],
            Err(why) => {
                let label = if spec.name.is_empty() { symbol } else { spec.name.to_string() };
                self.fail(Error::graph(format!("{}: {why}", spec.op)).at(Place::Node(label)));
                vec![Fact::unknown(); spec.outputs.len()]
            }
        }
    }

    /// Puts `scope` in front of the names of all nodes that `write` writes.
    pub fn scoped<T>(&self, scope: &str, write: impl FnOnce() -> T) -> T {
        let inner = format!("{}{scope}/", self.state.borrow().scope);
        let outer = std::mem::replace(&mut self.state.borrow_mut().scope, inner);
        let out = write();
        self.state.borrow_mut().scope = outer;
        out
    }

    /// Makes everything that reads `old` so far, outputs of the graph among them, read `new(old)` instead.
    pub fn rewire<'g>(&'g self, old: Expr<'g>, new: impl FnOnce(Expr<'g>) -> Expr<'g>) {
        self.rewire_all(|| vec![(old, new(old))]);
    }

    /// The same for several values at once: what `new` writes may read all of them as they were.
    pub fn rewire_all<'g>(&'g self, new: impl FnOnce() -> Vec<(Expr<'g>, Expr<'g>)>) {
        let before = self.state.borrow().graph.nodes.len();
        let pairs = new();
        let mut state = self.state.borrow_mut();
        for (old, new) in pairs.into_iter().map(|(old, new)| (old.id(), new.id())).filter(|(old, new)| old != new) {
            let readers = std::mem::take(&mut state.readers[old.index()]);
            let (moved, stay): (Vec<usize>, Vec<usize>) = readers.into_iter().partition(|&place| place < before);
            for &place in &moved {
                let node = &mut state.graph.nodes[place];
                node.inputs.iter_mut().flatten().chain(&mut node.captures).filter(|id| **id == old).for_each(|id| *id = new);
            }
            state.readers[old.index()] = stay;
            state.readers[new.index()].extend(moved);
            state.outputs.iter_mut().filter(|(_, id)| *id == old).for_each(|(_, id)| *id = new);
        }
        state.interned.clear();
    }

    /// Makes one input of the node that writes `output` read `new`.
    ///
    /// Does nothing if no node writes `output` or it has no such input: callers found the node in the graph they started from.
    pub fn rewire_input(&self, output: ValueId, input: usize, new: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.writers.get(output.index()).copied().flatten() else { return };
        if let Some(slot) = state.graph.nodes[place].inputs.get_mut(input) {
            *slot = Some(new.id());
            state.readers[new.id().index()].push(place);
        }
        state.interned.clear();
    }

    /// Gives the node that writes `output` another form; the outputs and what is known of them stay.
    ///
    /// Does nothing if no node writes `output`.
    pub fn replace_node(&self, output: ValueId, mut form: Node) {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.writers.get(output.index()).copied().flatten() else { return };
        form.outputs.clone_from(&state.graph.nodes[place].outputs);
        state.graph.nodes[place] = form;
        state.index(place);
        state.interned.clear();
    }

    /// Makes `old` what `new` is: the node that writes `new` writes `old` instead, under its name, and whoever reads `new` reads `old`.
    ///
    /// Does nothing if no node writes `new`.
    pub fn take_over(&self, old: Expr<'_>, new: Expr<'_>) {
        let (old, new) = (old.id(), new.id());
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(to) = state.writers[new.index()].take() else { return };
        if let Some(from) = state.writers[old.index()].replace(to) {
            let outputs = &mut state.graph.nodes[from].outputs;
            outputs.iter_mut().filter(|output| **output == Some(old)).for_each(|output| *output = None);
        }
        state.graph.nodes[to].outputs.iter_mut().flatten().filter(|id| **id == new).for_each(|id| *id = old);
        let readers = std::mem::take(&mut state.readers[new.index()]);
        for &place in &readers {
            let node = &mut state.graph.nodes[place];
            node.inputs.iter_mut().flatten().chain(&mut node.captures).filter(|id| **id == new).for_each(|id| *id = old);
        }
        state.readers[old.index()].extend(readers);
        state.outputs.iter_mut().filter(|(_, id)| *id == new).for_each(|(_, id)| *id = old);
        let known = state.graph.values[new.index()].fact.clone();
        let fact = &mut state.graph.values[old.index()].fact;
        if fact.dtype.is_none() || fact.shape.is_none() {
            *fact = known;
        }
        state.interned.clear();
    }

    /// Gives the node that writes `output` another name and other annotations.
    pub fn relabel(&self, output: ValueId, name: Arc<str>, metadata: Vec<(Arc<str>, Arc<str>)>) {
        let mut state = self.state.borrow_mut();
        if let Some(place) = state.writers.get(output.index()).copied().flatten() {
            let node = &mut state.graph.nodes[place];
            (node.name, node.metadata) = (name, metadata);
        }
    }

    /// A value by its id.
    #[must_use]
    pub fn expr(&self, id: ValueId) -> Expr<'_> {
        Expr::new(self, id)
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
        self.state.borrow().graph.nodes.clone()
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

    /// The value that is output under a name.
    pub fn output_named(&self, name: &str) -> Option<Expr<'_>> {
        self.state.borrow().outputs.iter().find(|(n, _)| &**n == name).map(|(_, id)| Expr::new(self, *id))
    }

    /// Makes `value` an output of the graph.
    pub fn output(&self, name: &str, value: Expr<'_>) {
        self.state.borrow_mut().outputs.push((name.into(), value.id()));
    }

    /// Makes the output of a name another value; readers of what it was before go on reading that.
    pub fn set_output(&self, name: &str, value: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        state.outputs.iter_mut().filter(|(n, _)| &**n == name).for_each(|(_, id)| *id = value.id());
    }

    /// Takes all outputs away.
    pub fn clear_outputs(&self) {
        self.state.borrow_mut().outputs.clear();
    }

    /// What is known of a value.
    #[must_use]
    pub fn fact(&self, id: ValueId) -> Fact {
        self.state.borrow().graph.values[id.index()].fact.clone()
    }

    /// Makes a symbol stand for another length in everything that is known so far. Does nothing if `symbol` is not a single symbol.
    pub fn substitute(&self, symbol: &Dim, length: &Dim) {
        let Some(name) = symbol.symbol_name() else { return };
        let replace = |dims: &mut Vec<Dim>| {
            for dim in dims {
                *dim = dim.substitute(|s| (s == name).then(|| length.clone()));
            }
        };
        for value in &mut self.state.borrow_mut().graph.values {
            value.fact.shape.iter_mut().chain(&mut value.fact.contents).for_each(replace);
        }
    }

    /// The input of a name.
    pub fn input_named(&self, name: &str) -> Option<Expr<'_>> {
        let state = self.state.borrow();
        let id = state.graph.inputs.iter().copied().find(|id| &*state.graph.values[id.index()].name == name);
        id.map(|id| Expr::new(self, id))
    }

    /// Corrects what is known of a value, where the caller knows more than inference does.
    pub fn assume(&self, id: ValueId, fact: Fact) {
        self.state.borrow_mut().graph.values[id.index()].fact = fact;
    }

    /// Keeps what the file said of a value.
    pub fn declare(&self, id: ValueId, declared: bytes::Bytes) {
        self.state.borrow_mut().graph.values[id.index()].declared = Some(declared);
    }

    /// A value's name.
    #[must_use]
    pub fn name(&self, id: ValueId) -> Arc<str> {
        Arc::clone(&self.state.borrow().graph.values[id.index()].name)
    }

    /// The constant behind a value, if no caller can override it.
    #[must_use]
    pub fn constant_of(&self, id: ValueId) -> Option<Tensor> {
        self.state.borrow().constant(id).cloned()
    }

    /// Whether a value is a constant that no caller can override.
    #[must_use]
    pub fn is_constant(&self, id: ValueId) -> bool {
        self.state.borrow().constant(id).is_some()
    }

    /// The data of an initializer, whether callers can override it or not.
    #[must_use]
    pub fn initial(&self, id: ValueId) -> Option<Tensor> {
        self.state.borrow().graph.initializers.get(&id).cloned()
    }

    /// Infers again what is known of everything that nodes make: after nodes were made to read values of other shapes.
    ///
    /// The first node that cannot be with what it reads now is the builder's error.
    pub fn infer_again(&self) {
        let nodes = match self.sorted_nodes() {
            Ok(nodes) => nodes,
            Err(error) => return self.fail(error),
        };
        for node in nodes {
            let outputs: Vec<Option<ValueId>> = node.outputs.clone();
            let spec = NodeSpec {
                name: node.name,
                op: node.op,
                inputs: node.inputs,
                outputs: outputs.iter().map(|id| id.map(|id| self.name(id))).collect(),
                attrs: node.attrs,
                captures: node.captures,
                ..NodeSpec::default()
            };
            let facts = self.infer(&spec);
            let mut state = self.state.borrow_mut();
            for (id, fact) in outputs.into_iter().zip(facts) {
                let Some(id) = id else { continue };
                let known = &mut state.graph.values[id.index()].fact;
                *known = Fact { dtype: fact.dtype.or(known.dtype), ..fact };
            }
        }
        self.state.borrow_mut().interned.clear();
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Needed,
    Everything,
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
        self.graph.values.push(value);
        self.readers.push(vec![]);
        self.writers.push(None);
        ValueId::new(self.graph.values.len() - 1)
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
        if let Some(tensor) = self.graph.initializers.get(&id) {
            return (!self.graph.inputs.contains(&id)).then_some(tensor);
        }
        let node = &self.graph.nodes[self.writers[id.index()]?];
        match (&*node.op, node.attrs.get("value")) {
            ("Constant", Some(Attr::Tensor(tensor))) => Some(tensor),
            ("Identity", _) => self.constant(node.input(0)?),
            _ => None,
        }
    }

    fn finish(mut self, keep: Keep) -> Result<Graph> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.name_outputs();
        self.graph.outputs = self.outputs.iter().map(|(_, id)| *id).collect();
        self.graph.nodes = sorted(std::mem::take(&mut self.graph.nodes), &self.graph, keep)?;
        if keep == Keep::Needed {
            let mut read: HashSet<ValueId> = self.graph.nodes.iter().flat_map(Node::reads).collect();
            read.extend(self.graph.outputs.iter().chain(&self.graph.inputs));
            self.graph.initializers.retain(|id, _| read.contains(id));
        }
        Ok(self.graph.indexed())
    }

    /// Gives each output's value the output's name, through an `Identity` where a value cannot bear it.
    fn name_outputs(&mut self) {
        let mut named = HashSet::new();
        for (name, id) in &mut self.outputs {
            let value = &self.graph.values[id.index()];
            if value.name == *name && named.insert(*id) {
                continue;
            }
            let source = self.graph.inputs.contains(id) || self.graph.initializers.contains_key(id) || self.graph.captured.contains(id);
            if let Some(other) = self.graph.values.iter().position(|v| v.name == *name) {
                // The name's former bearer, which was rewired, steps back.
                let mut number = 0;
                let free = std::iter::repeat_with(|| {
                    number += 1;
                    Arc::from(format!("{name}_before_{number}"))
                });
                let free: Arc<str> = { free }.find(|n| !self.names.contains(n)).expect("numbers do not end");
                self.names.insert(Arc::clone(&free));
                self.graph.values[other].name = free;
            }
            if source || !named.insert(*id) {
                let value = Value { name: Arc::clone(name), fact: self.graph.values[id.index()].fact.clone(), declared: None };
                self.graph.values.push(value);
                let renamed = ValueId::new(self.graph.values.len() - 1);
                self.graph.nodes.push(Node {
                    name: format!("{name}/Identity").into(),
                    op: "Identity".into(),
                    inputs: vec![Some(*id)],
                    outputs: vec![Some(renamed)],
                    attrs: IndexMap::new(),
                    captures: vec![],
                    metadata: vec![],
                    extra: None,
                });
                *id = renamed;
                named.insert(renamed);
            } else {
                self.graph.values[id.index()].name = Arc::clone(name);
            }
            self.names.insert(Arc::clone(name));
        }
    }
}

/// Puts each node after those it reads from, otherwise in the order of writing: depth first from each node in turn, so that a node
/// that was written late and is read early stands right before its first reader.
fn sorted(nodes: Vec<Node>, graph: &Graph, keep: Keep) -> Result<Vec<Node>> {
    let mut made_by = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.writes() {
            if made_by.insert(output, i).is_some() {
                return Err(Error::graph(format!("value {} is written twice", graph.value_name(output))));
            }
        }
    }
    let needed = match keep {
        Keep::Everything => vec![true; nodes.len()],
        Keep::Needed => needed(&nodes, &made_by, &graph.outputs),
    };
    let mut order = Vec::with_capacity(nodes.len());
    // 0: not seen, 1: its inputs are being visited, 2: placed.
    let mut mark = vec![0_u8; nodes.len()];
    for start in (0..nodes.len()).filter(|&i| needed[i]) {
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            if mark[at] == 2 {
                stack.pop();
                continue;
            }
            let waiting: Vec<usize> = nodes[at].reads().filter_map(|id| made_by.get(&id).copied()).filter(|&i| mark[i] != 2).collect();
            if waiting.is_empty() {
                mark[at] = 2;
                order.push(at);
                stack.pop();
            } else if mark[at] == 1 {
                let label = if nodes[at].name.is_empty() { nodes[at].op.to_string() } else { nodes[at].name.to_string() };
                let kind: Error = ErrorKind::Graph("its inputs depend on its outputs (a cycle)".into()).into();
                return Err(kind.at(Place::Node(label)));
            } else {
                mark[at] = 1;
                stack.extend(waiting.into_iter().rev());
            }
        }
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().map(|i| nodes[i].take().expect("each node is placed once")).collect())
}

fn needed(nodes: &[Node], made_by: &BTreeMap<ValueId, usize>, outputs: &[ValueId]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    let mut queue: Vec<usize> = outputs.iter().filter_map(|id| made_by.get(id).copied()).collect();
    while let Some(at) = queue.pop() {
        if !std::mem::replace(&mut needed[at], true) {
            queue.extend(nodes[at].reads().filter_map(|id| made_by.get(&id).copied()));
        }
    }
    needed
}
