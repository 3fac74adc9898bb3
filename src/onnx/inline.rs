//! Model-local functions put in the place of their calls.

mod budget;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use budget::Budget;

use super::attribute;
use super::external::Load;
use super::order::{label, sparse_name};
use super::proto::{
    AttributeProto, EXTERNAL, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, TensorProto,
    ValueInfoProto, entry,
};
use super::read::{are_few, domain, model as read_model};
use super::storage::Store;
use super::tensor;
use super::write::{kept, model as write_model};
use crate::error::{Context, Error, Place, Result};
use crate::ir::{DIALECT, Graph, Tensor};

/// The same graph with every call of a function that the model itself defines replaced by the function's nodes, named
/// `call/inner`, whatever the depth. A graph without such functions stays as it is.
///
/// Names of values stay; their ids do not. Attributes that a function takes get the call's value, or the function's default; those that
/// have neither are left out (ONNX's `IR.md`, functions).
///
/// # Errors
/// If a function calls itself, is written in an opset before 18 that is not the model's, or calls unfold into more than a model needs: the
/// error has the call that did.
pub fn inline_functions(graph: &Graph) -> Result<Graph> {
    let rest: ModelProto = kept(graph.model().rest.as_ref())?;
    if rest.functions.is_empty() {
        return Ok(graph.clone());
    }
    let mut tensors = Tensors::default();
    let mut message = write_model(graph, &mut tensors)?;
    let functions = std::mem::take(&mut message.functions);
    let mut body = message.graph.take().unwrap_or_default();
    let mut inliner = Inliner {
        functions: HashMap::new(),
        names: Names::of(&body),
        open: vec![],
        bodies: 0,
        info: vec![],
        budget: Budget::default(),
        least: HashMap::new(),
    };
    for function in &functions {
        agree(function, &mut message.opset_import)?;
        inliner.functions.insert(key(function.domain(), function.name(), function.overload()), function);
    }
    inliner.graph(&mut body)?;
    body.value_info.append(&mut inliner.info);
    message.graph = Some(body);
    read_model(message, &tensors)
}

/// Sees to it that the model's operator sets are those of a function too.
fn agree(function: &FunctionProto, model: &mut Vec<OperatorSetIdProto>) -> Result<()> {
    are_few(model.len().max(function.opset_import.len()))?;
    for opset in &function.opset_import {
        let name = domain(opset.domain());
        match model.iter().find(|other| domain(other.domain()) == name) {
            None => model.push(opset.clone()),
            Some(other) if !name.is_empty() || other.version() == opset.version() => {}
            Some(other) if other.version().min(opset.version()) >= DIALECT => {}
            Some(other) => {
                let versions = format!("it is written in opset {}, the model in {}", opset.version(), other.version());
                return Err(Error::unsupported(format!("function {}", function.name()), versions));
            }
        }
    }
    Ok(())
}

/// What tells functions apart.
type Key = (String, String, String);

fn key(in_domain: &str, name: &str, overload: &str) -> Key {
    (domain(in_domain).to_owned(), name.to_owned(), overload.to_owned())
}

struct Inliner<'a> {
    functions: HashMap<Key, &'a FunctionProto>,
    names: Names,
    /// The functions whose calls are being replaced.
    open: Vec<Key>,
    /// The bodies around the node that is being looked at.
    bodies: usize,
    budget: Budget,
    /// The bytes that a call of each function takes at least, the calls inside it among them.
    least: HashMap<Key, usize>,
    /// What functions say of their values.
    info: Vec<ValueInfoProto>,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        for node in std::mem::take(&mut graph.node) {
            let place = Place::Node(label(&node));
            self.node(node, &mut graph.node).at(place)?;
        }
        Ok(())
    }

    fn node(&mut self, mut node: NodeProto, out: &mut Vec<NodeProto>) -> Result<()> {
        self.bodies += 1;
        budget::check_bodies(self.bodies)?;
        for body in node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs)) {
            self.graph(body)?;
        }
        self.bodies -= 1;
        let called = key(node.domain(), node.op_type(), node.overload());
        let Some(&function) = self.functions.get(&called) else {
            out.push(node);
            return Ok(());
        };
        if self.open.is_empty() {
            // Told before anything is written: what does not fit takes no time.
            let least = self.least(&called)?;
            self.budget.check(least)?;
        }
        self.enter(called)?;
        let mut call = Call::new(function, &node, &mut self.names);
        let mut expanded = Vec::with_capacity(function.node.len());
        for inner in &function.node {
            let inner = call.node(inner);
            self.budget.spend(budget::of_node(&inner))?;
            expanded.push(inner);
        }
        expanded.extend(call.passed_through());
        for info in &function.value_info {
            let info = call.info(info);
            self.budget.spend(budget::of_info(&info))?;
            self.info.push(info);
        }
        for inner in expanded {
            self.node(inner, out)?;
        }
        self.open.pop();
        Ok(())
    }
}

impl Inliner<'_> {
    /// Notes that a function's call is being looked into.
    fn enter(&mut self, called: Key) -> Result<()> {
        if self.open.contains(&called) {
            return Err(Error::graph(format!("function {} calls itself", called.1)));
        }
        self.open.push(called);
        budget::check_calls(self.open.len())
    }

    /// The bytes that a call takes at least. Each function is looked into once.
    fn least(&mut self, called: &Key) -> Result<usize> {
        if let Some(&known) = self.least.get(called) {
            return Ok(known);
        }
        let Some(&function) = self.functions.get(called) else { return Ok(0) };
        self.enter(called.clone())?;
        let least = self.least_of(&function.node)?;
        self.open.pop();
        self.least.insert(called.clone(), least);
        Ok(least)
    }

    fn least_of(&mut self, nodes: &[NodeProto]) -> Result<usize> {
        let mut sum = 0_usize;
        for node in nodes {
            let called = self.least(&key(node.domain(), node.op_type(), node.overload()))?;
            sum = sum.saturating_add(budget::NODE).saturating_add(called);
            for body in node.attribute.iter().flat_map(attribute::bodies) {
                self.bodies += 1;
                budget::check_bodies(self.bodies)?;
                sum = sum.saturating_add(self.least_of(&body.node)?);
                self.bodies -= 1;
            }
        }
        Ok(sum)
    }
}

/// One call of a function: what its names and attributes mean there.
struct Call<'a> {
    function: &'a FunctionProto,
    node: &'a NodeProto,
    /// What is put before the function's names.
    prefix: String,
    names: &'a mut Names,
    meaning: HashMap<&'a str, String>,
    /// The attributes that the call gives, and the function's defaults for the others.
    attributes: HashMap<&'a str, &'a AttributeProto>,
}

impl<'a> Call<'a> {
    fn new(function: &'a FunctionProto, node: &'a NodeProto, names: &'a mut Names) -> Self {
        let prefix = if node.name().is_empty() { function.name() } else { node.name() }.to_owned();
        let mut meaning: HashMap<&str, String> = HashMap::new();
        for (at, input) in function.input.iter().enumerate() {
            meaning.insert(input, node.input.get(at).cloned().unwrap_or_default());
        }
        let inputs: HashSet<&String> = function.input.iter().collect();
        let given = |at: usize| node.output.get(at).filter(|name| !name.is_empty());
        for (at, output) in function.output.iter().enumerate() {
            if let (Some(name), false) = (given(at), inputs.contains(output)) {
                meaning.entry(output).or_insert_with(|| name.clone());
            }
        }
        let mut attributes = HashMap::new();
        for given in node.attribute.iter().chain(&function.attribute_proto) {
            attributes.entry(given.name()).or_insert(given);
        }
        Self { function, node, prefix, names, meaning, attributes }
    }

    /// What a name in the function means outside.
    fn name(&mut self, inner: &'a str) -> String {
        if inner.is_empty() {
            return String::new();
        }
        if let Some(meaning) = self.meaning.get(inner) {
            return meaning.clone();
        }
        let fresh = self.fresh(inner);
        self.meaning.insert(inner, fresh.clone());
        fresh
    }

    fn fresh(&mut self, inner: &str) -> String {
        self.names.claim(format!("{}/{inner}", self.prefix))
    }

    fn node(&mut self, inner: &'a NodeProto) -> NodeProto {
        let name = Some(self.fresh(if inner.name().is_empty() { inner.op_type() } else { inner.name() }));
        let input = inner.input.iter().map(|name| self.name(name)).collect();
        let output = inner.output.iter().map(|name| self.name(name)).collect();
        let attribute = inner.attribute.iter().filter_map(|attribute| self.attribute(attribute)).collect();
        NodeProto { input, output, name, attribute, ..bare(inner) }
    }

    fn attribute(&mut self, inner: &'a AttributeProto) -> Option<AttributeProto> {
        if let Some(name) = inner.ref_attr_name.as_deref().filter(|name| !name.is_empty()) {
            let given = *self.attributes.get(name)?;
            // A body that the call gives already has the names of the graph outside.
            return Some(AttributeProto { name: inner.name.clone(), ref_attr_name: None, ..given.clone() });
        }
        let (g, graphs) = (inner.g.as_ref().map(|body| self.body(body)), inner.graphs.iter().map(|body| self.body(body)).collect());
        let kind = Some(attribute::kind(inner));
        Some(AttributeProto { g, graphs, r#type: kind, ..without_bodies(inner) })
    }

    fn body(&mut self, body: &'a GraphProto) -> GraphProto {
        let mut infos = |all: &'a [ValueInfoProto]| all.iter().map(|info| self.info(info)).collect();
        let (input, output, value_info) = (infos(&body.input), infos(&body.output), infos(&body.value_info));
        let initializer = body.initializer.iter().map(|tensor| self.tensor(tensor)).collect();
        let sparse = |sparse: &'a SparseTensorProto| {
            let values = sparse.values.as_ref().map(|values| self.tensor(values));
            SparseTensorProto { values, ..sparse.clone() }
        };
        let sparse_initializer = body.sparse_initializer.iter().map(sparse).collect();
        let node = body.node.iter().map(|node| self.node(node)).collect();
        GraphProto { node, initializer, sparse_initializer, input, output, value_info, ..without_parts(body) }
    }

    fn tensor(&mut self, tensor: &'a TensorProto) -> TensorProto {
        TensorProto { name: Some(self.name(tensor.name())), ..tensor.clone() }
    }

    fn info(&mut self, info: &'a ValueInfoProto) -> ValueInfoProto {
        ValueInfoProto { name: Some(self.name(info.name())), ..info.clone() }
    }

    /// Copies for outputs that are inputs of the function, or outputs already.
    fn passed_through(&mut self) -> Vec<NodeProto> {
        let mut copies = vec![];
        for (at, output) in self.function.output.iter().enumerate() {
            let Some(given) = self.node.output.get(at).filter(|name| !name.is_empty()) else { continue };
            let source = self.name(output);
            if source != *given && !source.is_empty() {
                let (input, output) = (vec![source], vec![given.clone()]);
                copies.push(NodeProto { input, output, op_type: Some("Identity".into()), ..NodeProto::default() });
            }
        }
        copies
    }
}

/// A node of a function without what a call gives another meaning.
fn bare(node: &NodeProto) -> NodeProto {
    NodeProto {
        op_type: node.op_type.clone(),
        domain: node.domain.clone(),
        overload: node.overload.clone(),
        doc_string: node.doc_string.clone(),
        metadata_props: node.metadata_props.clone(),
        device_configurations: node.device_configurations.clone(),
        ..NodeProto::default()
    }
}

/// What an attribute is beside its bodies.
fn without_bodies(attribute: &AttributeProto) -> AttributeProto {
    match (&attribute.g, attribute.graphs.is_empty()) {
        (None, true) => attribute.clone(),
        _ => AttributeProto { name: attribute.name.clone(), doc_string: attribute.doc_string.clone(), ..AttributeProto::default() },
    }
}

/// What a body says beside its values and nodes.
fn without_parts(body: &GraphProto) -> GraphProto {
    GraphProto {
        name: body.name.clone(),
        doc_string: body.doc_string.clone(),
        quantization_annotation: body.quantization_annotation.clone(),
        metadata_props: body.metadata_props.clone(),
        ..GraphProto::default()
    }
}

/// Every name of a value or a node, and for those that were asked for twice the last number that made one unique.
struct Names {
    taken: HashSet<String>,
    numbers: HashMap<String, usize>,
}

impl Names {
    fn of(graph: &GraphProto) -> Self {
        Self { taken: names(graph), numbers: HashMap::new() }
    }

    /// The wanted name, or the wanted name with the first number that makes it unique.
    fn claim(&mut self, wanted: String) -> String {
        if self.taken.insert(wanted.clone()) {
            return wanted;
        }
        let number = self.numbers.entry(wanted.clone()).or_default();
        loop {
            *number += 1;
            let fresh = format!("{wanted}_{number}");
            if self.taken.insert(fresh.clone()) {
                return fresh;
            }
        }
    }
}

/// Every name in a graph and its bodies.
fn names(graph: &GraphProto) -> HashSet<String> {
    let values = graph.input.iter().chain(&graph.value_info).map(ValueInfoProto::name);
    let constants = graph.initializer.iter().map(TensorProto::name).chain(graph.sparse_initializer.iter().map(sparse_name));
    let mut found: HashSet<String> = values.chain(constants).map(str::to_owned).collect();
    for node in &graph.node {
        found.extend(node.output.iter().cloned());
        found.extend(node.name.clone());
        node.attribute.iter().flat_map(attribute::bodies).for_each(|body| found.extend(names(body)));
    }
    found
}

/// Tensors that are set aside while their messages are rewritten.
#[derive(Default)]
struct Tensors(RefCell<Vec<Tensor>>);

impl Store for Tensors {
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        let all = self.0.get_mut();
        all.push(tensor.clone());
        let external_data = vec![entry("location", &(all.len() - 1).to_string())];
        Ok(TensorProto { external_data, data_location: Some(EXTERNAL), ..tensor::header(name, tensor) })
    }
}

impl Load for Tensors {
    fn load(&self, proto: &TensorProto) -> Result<Tensor> {
        if proto.data_location() != EXTERNAL {
            return tensor::inline(proto).at(Place::Tensor(proto.name().to_owned()));
        }
        let index = proto.external_data.first().and_then(|entry| entry.value().parse::<usize>().ok());
        let tensor = index.and_then(|index| self.0.borrow().get(index).cloned());
        tensor.ok_or_else(|| Error::not_found("tensor", proto.name()))
    }
}
