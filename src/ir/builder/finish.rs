//! The end of writing: nodes sorted, what no output needs left out, outputs named.

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};

use super::State;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::ir::{Attr, Graph, Node, Value, ValueId};

/// What is written of what a builder holds.
#[derive(Clone, Copy)]
pub(super) enum Keep<'a> {
    /// What the outputs need.
    Needed,
    /// The same, and what was idle from the start.
    NeededOr(&'a FxHashSet<ValueId>),
    Everything,
}

/// The values of a graph that its outputs do not need.
pub(super) fn idle(graph: &Graph) -> FxHashSet<ValueId> {
    let mut made_by: MadeBy = vec![None; graph.values.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        node.writes().for_each(|output| made_by[output.index()] = Some(at));
    }
    let needed = needed(&graph.nodes, &made_by, &graph.outputs);
    let (used, unused): (Vec<_>, Vec<_>) = graph.nodes.iter().zip(needed).partition(|(_, needed)| *needed);
    let mut idle: FxHashSet<ValueId> = unused.iter().flat_map(|(node, _)| node.writes()).collect();
    idle.extend(graph.initializers.keys().copied());
    for id in used.iter().flat_map(|(node, _)| node.reads()).chain(graph.outputs.iter().copied()) {
        idle.remove(&id);
    }
    idle
}

impl State {
    pub(super) fn finish(mut self, keep: Keep<'_>) -> Result<Graph> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.name_outputs();
        let Graph { nodes, values, .. } = &mut self.graph;
        name_captures(nodes, values);
        self.graph.outputs = self.outputs.iter().map(|(_, id)| *id).collect();
        let written = Arc::unwrap_or_clone(std::mem::take(&mut self.graph.nodes));
        self.graph.nodes = Arc::new(sorted(written, &self.graph, keep)?);
        if !matches!(keep, Keep::Everything) {
            let mut read: FxHashSet<ValueId> = self.graph.nodes.iter().flat_map(Node::reads).collect();
            read.extend(self.graph.outputs.iter().chain(&self.graph.inputs));
            if let Keep::NeededOr(idle) = keep {
                read.extend(idle);
            }
            self.graph.initializers_mut().retain(|id, _| read.contains(id));
        }
        Ok(self.graph.indexed())
    }

    /// Gives each output's value the output's name, through an `Identity` where a value cannot bear it.
    fn name_outputs(&mut self) {
        let mut named = FxHashSet::default();
        let captured: FxHashSet<ValueId> = self.graph.captured.iter().copied().collect();
        let wanted: FxHashSet<Arc<str>> = self.outputs.iter().map(|(name, _)| Arc::clone(name)).collect();
        let values = self.graph.values.iter().enumerate().filter(|(_, value)| wanted.contains(&value.name));
        // Where several values have a name, the first one bears it.
        let mut bearers: FxHashMap<Arc<str>, usize> = values.rev().map(|(at, value)| (Arc::clone(&value.name), at)).collect();
        for (name, id) in &mut self.outputs {
            let value = &self.graph.values[id.index()];
            if value.name == *name && named.insert(*id) {
                continue;
            }
            let source = self.graph.is_input(*id) || self.graph.initializers.contains_key(id) || captured.contains(id);
            let bearer = bearers.remove(name).filter(|&at| self.graph.values[at].name == *name);
            if let Some(other) = bearer {
                // The name's former bearer, which was rewired, steps back.
                let mut number = 0;
                let free = std::iter::repeat_with(|| {
                    number += 1;
                    Arc::from(format!("{name}_before_{number}"))
                });
                let free: Arc<str> = { free }.find(|n| !self.names.contains(n) && !wanted.contains(n)).expect("numbers do not end");
                self.names.insert(Arc::clone(&free));
                self.graph.values_mut()[other].name = free;
            }
            if source || !named.insert(*id) {
                let value = Value { name: Arc::clone(name), fact: self.graph.values[id.index()].fact.clone(), declared: None };
                self.graph.values_mut().push(value);
                let renamed = ValueId::new(self.graph.values.len() - 1);
                self.graph.nodes_mut().push(Node {
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
                self.graph.values_mut()[id.index()].name = Arc::clone(name);
            }
            self.names.insert(Arc::clone(name));
        }
    }
}

/// Bodies read what is around them by its name: gives what each captures the name that it has now.
fn name_captures(nodes: &mut Arc<Vec<Node>>, values: &[Value]) {
    if nodes.iter().all(|node| node.captures.is_empty()) {
        return;
    }
    for node in Arc::make_mut(nodes).iter_mut().filter(|node| !node.captures.is_empty()) {
        let mut names = node.captures.iter().map(|id| &values[id.index()].name);
        for attr in node.attrs.values_mut() {
            match attr {
                Attr::Graph(body) => name_captured(body, &mut names),
                Attr::Graphs(bodies) => bodies.iter_mut().for_each(|body| name_captured(body, &mut names)),
                _ => {}
            }
        }
    }
}

/// Takes the names of what one body captures, in its order.
fn name_captured<'a>(body: &mut Arc<Graph>, names: &mut impl Iterator<Item = &'a Arc<str>>) {
    let renamed: Vec<(ValueId, &Arc<str>)> =
        body.captured.iter().copied().zip(names).filter(|(id, name)| body.value(*id).name != **name).collect();
    if renamed.is_empty() {
        return;
    }
    let body = Arc::make_mut(body);
    // Several may be one value around the body by now.
    let captured: FxHashSet<usize> = body.captured.iter().map(|id| id.index()).collect();
    let taken: FxHashSet<&Arc<str>> = renamed.iter().map(|(_, name)| *name).collect();
    for (_, own) in body.values_mut().iter_mut().enumerate().filter(|(at, own)| taken.contains(&own.name) && !captured.contains(at)) {
        own.name = format!("{}_inside", own.name).into();
    }
    for (id, name) in renamed {
        body.values_mut()[id.index()].name = Arc::clone(name);
    }
    let Graph { nodes, values, .. } = body;
    name_captures(nodes, values);
}

/// Puts each node after those it reads from, otherwise in the order of writing: depth first from each node in turn, so that a node
/// that was written late and is read early stands right before its first reader.
pub(super) fn sorted(nodes: Vec<Node>, graph: &Graph, keep: Keep<'_>) -> Result<Vec<Node>> {
    let mut made_by: MadeBy = vec![None; graph.values.len()];
    for (i, node) in nodes.iter().enumerate() {
        for output in node.writes() {
            if made_by[output.index()].replace(i).is_some() {
                return Err(Error::graph(format!("value {} is written twice", graph.value_name(output))));
            }
        }
    }
    let needed = match keep {
        // What a node wrote may have become a constant.
        Keep::Everything => nodes.iter().map(|node| node.writes().next().is_some()).collect(),
        Keep::Needed => needed(&nodes, &made_by, &graph.outputs),
        Keep::NeededOr(idle) => {
            let wanted = nodes.iter().flat_map(Node::writes).filter(|id| idle.contains(id));
            needed(&nodes, &made_by, &graph.outputs.iter().copied().chain(wanted).collect::<Vec<_>>())
        }
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
            let first = stack.len();
            stack.extend(nodes[at].reads().filter_map(|id| made_by[id.index()]).filter(|&i| mark[i] != 2));
            if stack.len() == first {
                mark[at] = 2;
                order.push(at);
                stack.pop();
            } else if mark[at] == 1 {
                let label = if nodes[at].name.is_empty() { nodes[at].op.to_string() } else { nodes[at].name.to_string() };
                let kind: Error = ErrorKind::Graph("its inputs depend on its outputs (a cycle)".into()).into();
                return Err(kind.at(Place::Node(label)));
            } else {
                mark[at] = 1;
                stack[first..].reverse();
            }
        }
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().map(|i| nodes[i].take().expect("each node is placed once")).collect())
}

/// For each value, the place of the node that writes it.
type MadeBy = Vec<Option<usize>>;

fn needed(nodes: &[Node], made_by: &MadeBy, outputs: &[ValueId]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    let mut queue: Vec<usize> = outputs.iter().filter_map(|id| made_by[id.index()]).collect();
    while let Some(at) = queue.pop() {
        if !std::mem::replace(&mut needed[at], true) {
            queue.extend(nodes[at].reads().filter_map(|id| made_by[id.index()]));
        }
    }
    needed
}
