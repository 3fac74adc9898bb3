//! Model-local functions put in the place of their calls.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::attribute;
use super::external::Load;
use super::order::{label, sparse_name};
use super::proto::{
    AttributeProto, EXTERNAL, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use super::read::{domain, model as read_model};
use super::storage::Store;
use super::tensor;
use super::write::{entry, kept, model as write_model};
use crate::error::{Context, Error, Place, Result};
use crate::ir::{DIALECT, Graph, Tensor};

/// The same graph with every call of a function that the model itself defines replaced by the function's nodes, named
/// `call/inner`, whatever the depth. A graph without such functions stays as it is.
///
/// Names of values stay; their ids do not. Attributes that a function takes get the call's value, or the function's default; those that
/// have neither are left out (ONNX's `IR.md`, functions).
///
/// # Errors
/// If a function calls itself, or is written in an opset before 18 that is not the model's.
pub fn inline_functions(graph: &Graph) -> Result<Graph> {
    let rest: ModelProto = kept(graph.model().rest.as_ref())?;
    if rest.functions.is_empty() {
        return Ok(graph.clone());
    }
    let mut tensors = Tensors::default();
    let mut message = write_model(graph, &mut tensors)?;
    let functions = std::mem::take(&mut message.functions);
    let mut body = message.graph.take().unwrap_or_default();
    let mut inliner = Inliner { functions: HashMap::new(), names: names(&body), open: vec![], info: vec![] };
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
    /// Every name of a value or a node.
    names: HashSet<String>,
    /// The functions whose calls are being replaced.
    open: Vec<Key>,
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
        for body in node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs)) {
            self.graph(body)?;
        }
        let called = key(node.domain(), node.op_type(), node.overload());
        let Some(&function) = self.functions.get(&called) else {
            out.push(node);
            return Ok(());
        };
        if self.open.contains(&called) {
            return Err(Error::graph(format!("function {} calls itself", function.name())));
        }
        self.open.push(called);
        let mut call = Call::new(function, &node, &mut self.names);
        let mut expanded = Vec::with_capacity(function.node.len());
        for inner in &function.node {
            expanded.push(call.node(inner));
        }
        expanded.extend(call.passed_through());
        self.info.extend(function.value_info.iter().map(|info| call.info(info)));
        for inner in expanded {
            self.node(inner, out)?;
        }
        self.open.pop();
        Ok(())
    }
}

/// One call of a function: what its names and attributes mean there.
struct Call<'a> {
    function: &'a FunctionProto,
    node: &'a NodeProto,
    /// What is put before the function's names.
    prefix: String,
    names: &'a mut HashSet<String>,
    meaning: HashMap<String, String>,
}

impl<'a> Call<'a> {
    fn new(function: &'a FunctionProto, node: &'a NodeProto, names: &'a mut HashSet<String>) -> Self {
        let prefix = if node.name().is_empty() { function.name() } else { node.name() }.to_owned();
        let mut meaning: HashMap<String, String> = HashMap::new();
        for (at, input) in function.input.iter().enumerate() {
            meaning.insert(input.clone(), node.input.get(at).cloned().unwrap_or_default());
        }
        let given = |at: usize| node.output.get(at).filter(|name| !name.is_empty());
        for (at, output) in function.output.iter().enumerate() {
            if let (Some(name), false) = (given(at), function.input.contains(output)) {
                meaning.entry(output.clone()).or_insert_with(|| name.clone());
            }
        }
        Self { function, node, prefix, names, meaning }
    }

    /// What a name in the function means outside.
    fn name(&mut self, inner: &str) -> String {
        if inner.is_empty() {
            return String::new();
        }
        if let Some(meaning) = self.meaning.get(inner) {
            return meaning.clone();
        }
        let fresh = self.fresh(inner);
        self.meaning.insert(inner.to_owned(), fresh.clone());
        fresh
    }

    fn fresh(&mut self, inner: &str) -> String {
        let first = format!("{}/{inner}", self.prefix);
        let others = (1..).map(|number| format!("{first}_{number}"));
        let names = std::iter::once(first.clone()).chain(others);
        let fresh = { names }.find(|name| !self.names.contains(name)).expect("numbers do not end");
        self.names.insert(fresh.clone());
        fresh
    }

    fn node(&mut self, inner: &NodeProto) -> NodeProto {
        let mut node = inner.clone();
        node.name = Some(self.fresh(if inner.name().is_empty() { inner.op_type() } else { inner.name() }));
        node.input.iter_mut().chain(&mut node.output).for_each(|name| *name = self.name(name));
        node.attribute = inner.attribute.iter().filter_map(|attribute| self.attribute(attribute)).collect();
        node
    }

    fn attribute(&mut self, inner: &AttributeProto) -> Option<AttributeProto> {
        let mut attribute = match &inner.ref_attr_name {
            Some(name) if !name.is_empty() => {
                let of_call = self.node.attribute.iter().find(|given| given.name() == name);
                let given = of_call.or_else(|| self.function.attribute_proto.iter().find(|default| default.name() == name))?;
                // A body that the call gives already has the names of the graph outside.
                return Some(AttributeProto { name: inner.name.clone(), ref_attr_name: None, ..given.clone() });
            }
            _ => inner.clone(),
        };
        attribute.r#type = Some(attribute::kind(&attribute));
        for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            self.body(body);
        }
        Some(attribute)
    }

    fn body(&mut self, body: &mut GraphProto) {
        let infos = body.input.iter_mut().chain(&mut body.output).chain(&mut body.value_info);
        infos.for_each(|info| info.name = Some(self.name(info.name())));
        let sparse = body.sparse_initializer.iter_mut().filter_map(|sparse| sparse.values.as_mut());
        body.initializer.iter_mut().chain(sparse).for_each(|tensor| tensor.name = Some(self.name(tensor.name())));
        for node in &mut body.node {
            *node = self.node(node);
        }
    }

    fn info(&mut self, info: &ValueInfoProto) -> ValueInfoProto {
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
