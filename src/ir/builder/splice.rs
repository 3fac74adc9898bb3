//! One graph written into another.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Builder, NodeSpec};
use crate::error::{Error, Result};
use crate::ir::{Expr, Fact, Graph, Tensor, ValueId};

/// An annotation's value made of its key and another value.
type Annotate<'a> = &'a dyn Fn(&str, &str) -> String;

/// A name made of another.
type Rename<'a> = &'a dyn Fn(&str) -> String;

/// What names become in a graph that is written into another.
#[derive(Clone, Copy, Default)]
pub struct Renaming<'a> {
    /// The name of a constant.
    pub constant: Option<Rename<'a>>,
    /// The name of a node. Without it nodes get names of their scope.
    pub node: Option<Rename<'a>>,
    /// The name of what a node gives.
    pub value: Option<Rename<'a>>,
    /// An annotation of a node: its key and its value. Without it nodes have none.
    pub annotation: Option<Annotate<'a>>,
}

impl Builder {
    /// Writes all nodes of a graph here. `bind` gives the value that stands for an input without a value of its own, by the input's name and
    /// what is declared of it; the answer is the graph's outputs, by name.
    ///
    /// # Errors
    /// Those of `bind`; [`Graph`](crate::ErrorKind::Graph) for a graph that reads what it does not have.
    pub fn splice<'g>(&'g self, graph: &Graph, bind: impl FnMut(&str, Fact) -> Result<Expr<'g>>) -> Result<Vec<(Arc<str>, Expr<'g>)>> {
        self.splice_renamed(graph, Renaming::default(), |_| None, bind)
    }

    /// The same with names of its own. `known` gives the value that stands for a constant, where there is one already.
    ///
    /// # Errors
    /// As [`splice`](Self::splice).
    pub fn splice_renamed<'g>(
        &'g self,
        graph: &Graph,
        renaming: Renaming<'_>,
        mut known: impl FnMut(&Tensor) -> Option<Expr<'g>>,
        mut bind: impl FnMut(&str, Fact) -> Result<Expr<'g>>,
    ) -> Result<Vec<(Arc<str>, Expr<'g>)>> {
        let mut here: HashMap<ValueId, Expr<'g>> = HashMap::new();
        for (id, tensor) in graph.initializers() {
            let name = graph.value_name(id);
            let name = renaming.constant.map_or_else(|| name.to_owned(), |rename| rename(name));
            here.insert(id, known(tensor).unwrap_or_else(|| self.initializer(&name, tensor.clone())));
        }
        for id in graph.data_inputs() {
            here.insert(id, bind(graph.value_name(id), graph.fact(id).clone())?);
        }
        let unknown = |id: ValueId| Error::graph(format!("{} is read before it is written", graph.value_name(id)));
        for node in graph.nodes() {
            let at = |id: ValueId| here.get(&id).map(|value| value.id()).ok_or_else(|| unknown(id));
            let named = |name: &str| renaming.value.map_or_else(|| name.to_owned(), |rename| rename(name)).into();
            let annotations = renaming
                .annotation
                .into_iter()
                .flat_map(|rename| node.metadata.iter().map(move |(key, value)| (Arc::clone(key), Arc::from(rename(key, value)))));
            let spec = NodeSpec {
                name: renaming.node.map(|rename| Arc::from(rename(&node.name))).unwrap_or_default(),
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|input| input.map(at).transpose()).collect::<Result<_>>()?,
                outputs: node.outputs.iter().map(|output| output.map(|id| named(graph.value_name(id)))).collect(),
                attrs: node.attrs.clone(),
                captures: node.captures.iter().map(|&id| at(id)).collect::<Result<_>>()?,
                metadata: annotations.collect(),
                ..NodeSpec::default()
            };
            let written = self.node(spec);
            let outputs = node.outputs.iter().zip(written).filter_map(|(output, value)| output.zip(value));
            here.extend(outputs);
        }
        let output = |&id: &ValueId| Ok((Arc::from(graph.value_name(id)), *here.get(&id).ok_or_else(|| unknown(id))?));
        graph.outputs().iter().map(output).collect()
    }

    /// Writes the nodes of a body here a second time, under names of their own. `here` has what stands for its inputs and for what it reads from
    /// around it, and gets what stands for everything else.
    ///
    /// # Errors
    /// [`Graph`](crate::ErrorKind::Graph) for a body that reads what `here` does not have.
    pub fn copy_nodes<'g>(&'g self, body: &Graph, here: &mut HashMap<ValueId, Expr<'g>>) -> Result<()> {
        for (id, tensor) in body.initializers() {
            here.entry(id).or_insert_with(|| self.constant(tensor.clone()));
        }
        for node in body.nodes() {
            let at = |id: ValueId| {
                let found = here.get(&id).map(|value| value.id());
                found.ok_or_else(|| Error::graph(format!("{} is read before it is written", body.value_name(id))))
            };
            let written = self.node(NodeSpec {
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|input| input.map(at).transpose()).collect::<Result<_>>()?,
                outputs: node.outputs.iter().map(|output| output.map(|_| "".into())).collect(),
                attrs: node.attrs.clone(),
                captures: node.captures.iter().map(|&id| at(id)).collect::<Result<_>>()?,
                metadata: node.metadata.clone(),
                ..NodeSpec::default()
            });
            here.extend(node.outputs.iter().zip(written).filter_map(|(output, value)| output.zip(value)));
        }
        Ok(())
    }
}
