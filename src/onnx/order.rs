//! Names in a graph's message: who defines them, who reads them, and the order that follows.

use std::collections::{HashMap, HashSet};

use super::attribute::bodies;
use super::proto::{GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};
use crate::error::{Error, Place, Result};

/// A name for messages: the node's own, or its first output's where it has none.
pub(super) fn label(node: &NodeProto) -> String {
    match (node.name().is_empty(), node.output.iter().find(|name| !name.is_empty())) {
        (false, _) => node.name().to_owned(),
        (true, Some(output)) => format!("{} -> {output}", node.op_type()),
        (true, None) => node.op_type().to_owned(),
    }
}

/// The name of a sparse constant: that of its values.
pub(super) fn sparse_name(proto: &SparseTensorProto) -> &str {
    proto.values.as_ref().map_or("", |values| values.name())
}

/// The positions of a graph's nodes, each after those whose values it reads; otherwise as they stand.
///
/// # Errors
/// If a name is empty, is defined twice, or nodes read from each other in a circle.
pub(super) fn order(graph: &GraphProto) -> Result<Vec<usize>> {
    let makers = makers(graph)?;
    let reads: Vec<Vec<usize>> =
        graph.node.iter().map(|node| reads(node).into_iter().filter_map(|name| makers.get(name).copied()).collect()).collect();
    let in_order = reads.iter().enumerate().all(|(at, from)| from.iter().all(|&maker| maker < at));
    if in_order {
        return Ok((0..graph.node.len()).collect());
    }
    sorted(&reads).map_err(|at| Error::graph("its inputs depend on its outputs (a cycle)").at(Place::Node(label(&graph.node[at]))))
}

/// The node that makes each name that is made by a node.
fn makers(graph: &GraphProto) -> Result<HashMap<&str, usize>> {
    let mut defined = HashSet::new();
    let unnamed = |what: &str| Error::graph(format!("{what} without a name"));
    let twice = |name: &str| Error::graph("it is defined twice").at(Place::Tensor(name.to_owned()));
    let mut constants = HashSet::new();
    for name in graph.initializer.iter().map(TensorProto::name).chain(graph.sparse_initializer.iter().map(sparse_name)) {
        match name {
            "" => return Err(unnamed("an initializer")),
            _ if !constants.insert(name) => return Err(twice(name)),
            _ => {}
        }
    }
    for name in graph.input.iter().map(ValueInfoProto::name) {
        match name {
            "" => return Err(unnamed("an input")),
            _ if !defined.insert(name) => return Err(twice(name)),
            _ => {}
        }
    }
    defined.extend(constants);
    let mut makers = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().map(String::as_str).filter(|name| !name.is_empty()) {
            if !defined.insert(name) {
                return Err(twice(name).at(Place::Node(label(node))));
            }
            makers.insert(name, at);
        }
    }
    Ok(makers)
}

/// Every name that a node reads, through its bodies too.
fn reads(node: &NodeProto) -> Vec<&str> {
    let free = node.attribute.iter().flat_map(bodies).flat_map(free);
    node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).chain(free).collect()
}

/// The names that a body reads from the graph around it.
fn free(body: &GraphProto) -> Vec<&str> {
    let mut names: Vec<&str> = body.node.iter().flat_map(reads).collect();
    names.extend(body.output.iter().map(ValueInfoProto::name));
    let outputs = body.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let constants = body.initializer.iter().map(TensorProto::name).chain(body.sparse_initializer.iter().map(sparse_name));
    let own: HashSet<&str> = outputs.chain(constants).chain(body.input.iter().map(ValueInfoProto::name)).collect();
    names.retain(|name| !own.contains(name));
    names
}

/// Depth first from each node in turn; the error is a node in a circle.
fn sorted(reads: &[Vec<usize>]) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Unseen,
        Open,
        Placed,
    }
    let mut mark = vec![Mark::Unseen; reads.len()];
    let mut order = Vec::with_capacity(reads.len());
    for start in 0..reads.len() {
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            let waiting: Vec<usize> = reads[at].iter().rev().copied().filter(|&from| mark[from] != Mark::Placed).collect();
            match mark[at] {
                Mark::Placed => _ = stack.pop(),
                Mark::Unseen => {
                    mark[at] = Mark::Open;
                    stack.extend(waiting);
                }
                Mark::Open if !waiting.is_empty() => return Err(at),
                Mark::Open => {
                    mark[at] = Mark::Placed;
                    order.push(at);
                    stack.pop();
                }
            }
        }
    }
    Ok(order)
}
