//! Reading ONNX files.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;

use super::attribute;
use super::external::{Files, Load};
use super::lent::Lent;
use super::order::{label, order, sparse_name};
use super::proto::{FREE_INITIALIZERS, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};
use super::{tensor, types};
use crate::error::{Context, Error, Place, Result};
use crate::ir::{Builder, DType, Fact, Graph, ModelInfo, NodeSpec, Opset, ValueId};

/// Reads a model.
///
/// The file and those with its external data are mapped: weights are read from the disk when they are looked at, never copied.
/// What the graph does not hold (documentation, functions, quantisation annotations, ...) is kept beside it, to be written again.
///
/// A weight in a `Constant` node of the graph itself is read as an initializer of the same name.
///
/// Facts come from inference. What the file claims of an inner value (`value_info`) is believed only where inference knows nothing:
/// its type where the type is unknown, its shape where even the rank is; a claim cannot contradict a fact. Of inputs and of values
/// that are not tensors, the file's claim is all there is.
///
/// # Errors
/// If the file or its external data cannot be read, is not an ONNX model, or breaks the rules for graphs (a cycle, a name defined twice,
/// a value that nothing makes).
pub fn read(path: &Path) -> Result<Graph> {
    read_lent(path, &[])
}

/// Reads a model that refers to files which lie elsewhere.
///
/// # Errors
/// As [`read`].
pub fn read_lent(path: &Path, lent: &[Lent]) -> Result<Graph> {
    let files = Files::open(path, lent)?;
    of_files(&files).in_file(path)
}

/// Reads a model in memory; `data` are the files that its weights lie in, by the locations that it gives them.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(model: impl Into<Bytes>, data: &[(&str, Bytes)]) -> Result<Graph> {
    of_files(&Files::in_memory(model.into(), data))
}

fn of_files(files: &Files) -> Result<Graph> {
    let bytes = files.model().clone();
    if bytes.is_empty() {
        return Err(Error::format("an ONNX model", "the file is empty"));
    }
    let proto = ModelProto::decode(bytes.clone()).map_err(|why| not_a_model(&bytes, &why))?;
    model(proto, files)
}

fn not_a_model(bytes: &Bytes, why: &dyn std::fmt::Display) -> Error {
    let error = Error::format("an ONNX model", why);
    if bytes.starts_with(b"version https://git-lfs") {
        return error.with_hint("this is a Git LFS pointer, not the file itself: run `git lfs pull`");
    }
    error.with_hint("is the file complete? A download or a copy that was cut short reads like this")
}

/// Operator sets that a model may name: its domain's version is looked up for each node. Models name a handful.
const MOST_OPSETS: usize = 1000;

/// Refuses more operator sets than any model names.
pub(super) fn are_few(opsets: usize) -> Result<()> {
    if opsets <= MOST_OPSETS { Ok(()) } else { Err(Error::mismatch("operator sets", format!("{MOST_OPSETS} at most"), opsets)) }
}

/// The graph of a model's message.
pub(super) fn model(mut proto: ModelProto, load: &dyn Load) -> Result<Graph> {
    let graph = proto.graph.take().ok_or_else(|| Error::format("an ONNX model", "it has no graph"))?;
    are_few(proto.opset_import.len())?;
    let mut info = ModelInfo { ir_version: proto.ir_version.take().unwrap_or_default(), opsets: vec![], rest: None };
    for opset in proto.opset_import.drain(..) {
        let domain: Arc<str> = domain(opset.domain()).into();
        if info.version_of(&domain).is_none() {
            info.opsets.push(Opset { domain, version: opset.version() });
        }
    }
    info.rest = encoded(&proto);
    let builder = Builder::new(info);
    let scope = Scope { builder: &builder, ids: RefCell::default(), outer: None };
    scope.fill(graph, load)?;
    builder.finish_whole()
}

/// ONNX's own domain has two names.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The bytes of a message, unless it says nothing.
pub(super) fn encoded<M: Message + Default + PartialEq>(message: &M) -> Option<Bytes> {
    (*message != M::default()).then(|| message.encode_to_vec().into())
}

/// A graph being read, inside those around it: names mean what the innermost graph that knows them says.
struct Scope<'a> {
    builder: &'a Builder,
    ids: RefCell<HashMap<String, ValueId>>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<ValueId> {
        if let Some(&id) = self.ids.borrow().get(name) {
            return Some(id);
        }
        let outer = self.outer?;
        let id = outer.find(name)?;
        let captured = self.builder.capture(outer.builder.expr(id)).id();
        self.know(name, captured);
        Some(captured)
    }

    fn know(&self, name: &str, id: ValueId) {
        self.ids.borrow_mut().insert(name.to_owned(), id);
    }

    fn fill(&self, mut graph: GraphProto, load: &dyn Load) -> Result<()> {
        let order = order(&graph)?;
        let mut claims: Claims = graph.value_info.drain(..).map(|info| (info.name().to_owned(), info)).collect();
        claims.extend(graph.output.iter().map(|info| (info.name().to_owned(), info.clone())));
        self.inputs_and_constants(&mut graph, &mut claims, load)?;
        let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        for at in order {
            let node = nodes[at].take().expect("each node stands once in the order");
            let place = Place::Node(label(&node));
            self.node(node, &mut claims, load).at(place)?;
        }
        self.outputs(std::mem::take(&mut graph.output))?;
        graph.value_info = claims.into_values().filter(|info| !self.ids.borrow().contains_key(info.name())).collect();
        graph.value_info.sort_by(|a, b| a.name().cmp(b.name()));
        let name = graph.name.take().unwrap_or_default();
        self.builder.describe(&name, encoded(&graph));
        Ok(())
    }

    /// Leaves in `graph.initializer` what tensors do not hold of their messages, and the sparse constants as they are.
    fn inputs_and_constants(&self, graph: &mut GraphProto, claims: &mut Claims, load: &dyn Load) -> Result<()> {
        let mut constants: IndexMap<String, TensorProto> = IndexMap::new();
        for constant in graph.initializer.drain(..) {
            constants.insert(constant.name().to_owned(), constant);
        }
        let never_fed = self.builder.model().ir_version < FREE_INITIALIZERS;
        for input in graph.input.drain(..) {
            let name = input.name().to_owned();
            if never_fed && constants.contains_key(&name) {
                claims.insert(name, input);
                continue;
            }
            let fact = types::fact(&input);
            let id = self.builder.input_value(&name, fact.clone(), encoded(&input)).id();
            if let Some(default) = constants.get(&name) {
                let default = load.load(default)?;
                let known = Fact { contents: None, ..Fact::of(&default) };
                self.builder.set_initializer(id, default);
                self.builder
                    .assume(id, if types::contradicts(&fact, &known) { known } else { Fact { dtype: fact.dtype.or(known.dtype), ..fact } });
            }
            self.know(&name, id);
        }
        for (name, constant) in &constants {
            if !self.ids.borrow().contains_key(name) {
                let declared = claims.remove(name).and_then(|info| encoded(&info));
                let id = self.builder.initializer_value(name, load.load(constant)?, declared).id();
                self.know(name, id);
            }
        }
        graph.initializer = constants.into_values().filter_map(words).collect();
        for sparse in &graph.sparse_initializer {
            self.sparse(sparse, claims)?;
        }
        Ok(())
    }

    /// A sparse constant is a value that nothing in the graph makes.
    fn sparse(&self, proto: &SparseTensorProto, claims: &mut Claims) -> Result<()> {
        let name = sparse_name(proto);
        tensor::lengths(&proto.dims).at(Place::Tensor(name.to_owned()))?;
        let dtype = proto.values.as_ref().and_then(|values| DType::from_code(values.data_type()));
        let fact = Fact::partial(dtype, Some(proto.dims.iter().map(|&length| length.into()).collect()));
        let declared = claims.remove(name).and_then(|info| encoded(&info));
        self.know(name, self.builder.foreign_value(name, fact, declared).id());
        Ok(())
    }

    fn node(&self, mut proto: NodeProto, claims: &mut Claims, load: &dyn Load) -> Result<()> {
        let known = |name: &String| match &**name {
            "" => Ok(None),
            _ => self.find(name).map(Some).ok_or_else(|| Error::not_found("value", name)),
        };
        let inputs = proto.input.drain(..).map(|name| known(&name)).collect::<Result<_>>()?;
        if let (None, Some(stored), [output]) = (self.outer, weight(&proto), proto.output.as_slice()) {
            let declared = claims.remove(output).and_then(|info| encoded(&info));
            self.know(output, self.builder.initializer_value(output, load.load(stored)?, declared).id());
            return Ok(());
        }
        let outputs: Vec<Option<Arc<str>>> = proto.output.drain(..).map(|name| (!name.is_empty()).then(|| name.into())).collect();
        let mut spec = NodeSpec { op: operator(&proto)?, inputs, outputs: outputs.clone(), ..NodeSpec::default() };
        for attribute in std::mem::take(&mut proto.attribute) {
            let attr = attribute::read(&attribute, load, |graph| self.body(graph, &mut spec.captures, load))?;
            spec.attrs.insert(attribute.name().into(), attr);
            proto.attribute.extend(attribute::rest(&attribute));
        }
        spec.metadata = proto.metadata_props.drain(..).map(|entry| (entry.key().into(), entry.value().into())).collect();
        spec.name = proto.name.take().unwrap_or_default().into();
        (proto.op_type, proto.domain) = (None, None);
        spec.extra = encoded(&proto);
        let made = self.builder.node(spec);
        for (value, name) in made.into_iter().flatten().zip(outputs.iter().flatten()) {
            self.know(name, value.id());
            if let Some(claim) = claims.remove(&**name) {
                self.believe(value.id(), &claim);
            }
        }
        Ok(())
    }

    /// Takes a claim where inference knows nothing, and keeps its words.
    fn believe(&self, id: ValueId, claim: &ValueInfoProto) {
        self.builder.assume(id, filled(self.builder.fact(id), types::fact(claim)));
        self.builder.declare(id, claim.encode_to_vec().into());
    }

    fn body(&self, graph: &GraphProto, captures: &mut Vec<ValueId>, load: &dyn Load) -> Result<Graph> {
        let builder = self.builder.body(graph.name());
        builder.may_not_run();
        let scope = Scope { builder: &builder, ids: RefCell::default(), outer: Some(self) };
        scope.fill(graph.clone(), load)?;
        let body = builder.finish_whole_body()?;
        captures.extend(body.captures);
        Ok(body.graph)
    }

    fn outputs(&self, outputs: Vec<ValueInfoProto>) -> Result<()> {
        let mut seen = HashSet::new();
        for output in outputs {
            let id = self.find(output.name()).ok_or_else(|| Error::not_found("value", output.name()))?;
            if !seen.insert(id) {
                return Err(Error::graph("it is an output twice").at(Place::Tensor(output.name().to_owned())));
            }
            self.builder.output(output.name(), self.builder.expr(id));
        }
        Ok(())
    }
}

/// What a `Constant` holds that is a weight rather than a shape, an index or a single number: exporters that know no initializers (Paddle's)
/// keep weights so.
fn weight(node: &NodeProto) -> Option<&TensorProto> {
    let is_constant = domain(node.domain()).is_empty() && node.op_type() == "Constant";
    let stored = node.attribute.iter().find(|attribute| attribute.name() == "value")?.t.as_ref().filter(|_| is_constant)?;
    let (dtype, shape) = tensor::form(stored).ok()?;
    let is_number = dtype.is_float() || (dtype.bits() <= 8 && dtype != DType::Bool);
    (is_number && tensor::count(&shape).is_ok_and(|count| count > 1)).then_some(stored)
}

/// What is claimed of each value, by name.
type Claims = HashMap<String, ValueInfoProto>;

/// The first fact, with what it lacks from the second.
fn filled(fact: Fact, other: Fact) -> Fact {
    Fact { dtype: fact.dtype.or(other.dtype), shape: fact.shape.or(other.shape), contents: fact.contents }
}

/// What a tensor does not hold of its message.
fn words(proto: TensorProto) -> Option<TensorProto> {
    let says_something = proto.doc_string.is_some() || !proto.metadata_props.is_empty();
    let (name, doc_string, metadata_props) = (proto.name, proto.doc_string, proto.metadata_props);
    says_something.then(|| TensorProto { name, doc_string, metadata_props, ..TensorProto::default() })
}

/// The operator with its domain in front.
fn operator(node: &NodeProto) -> Result<Arc<str>> {
    match (domain(node.domain()), node.op_type()) {
        (_, op) if op.is_empty() || op.contains(':') => Err(Error::graph(format!("{op:?} cannot name an operator"))),
        ("", op) => Ok(op.into()),
        (domain, op) => Ok(format!("{domain}:{op}").into()),
    }
}
