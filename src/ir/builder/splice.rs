//! One graph written into another.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Builder, NodeSpec};
use crate::error::{Error, Result};
use crate::ir::{Expr, Fact, Graph, ValueId};

impl Builder {
    /// Writes all nodes of a graph here. `bind` gives the value that stands for an input without a value of its own, by the input's name and
    /// what is declared of it; the answer is the graph's outputs, by name.
    ///
    /// # Errors
    /// Those of `bind`; [`Graph`](crate::ErrorKind::Graph) for a graph that reads what it does not have.
    pub fn splice<'g>(&'g self, graph: &Graph, mut bind: impl FnMut(&str, Fact) -> Result<Expr<'g>>) -> Result<Vec<(Arc<str>, Expr<'g>)>> {
        let mut here: HashMap<ValueId, Expr<'g>> = HashMap::new();
        for (id, tensor) in graph.initializers() {
            here.insert(id, self.initializer(graph.value_name(id), tensor.clone()));
        }
        for id in graph.data_inputs() {
            here.insert(id, bind(graph.value_name(id), graph.fact(id).clone())?);
        }
        let unknown = |id: ValueId| Error::graph(format!("{} is read before it is written", graph.value_name(id)));
        for node in graph.nodes() {
            let at = |id: ValueId| here.get(&id).map(|value| value.id()).ok_or_else(|| unknown(id));
            let spec = NodeSpec {
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|input| input.map(at).transpose()).collect::<Result<_>>()?,
                outputs: node.outputs.iter().map(|output| output.map(|id| graph.value_name(id).into())).collect(),
                attrs: node.attrs.clone(),
                captures: node.captures.iter().map(|&id| at(id)).collect::<Result<_>>()?,
                ..NodeSpec::default()
            };
            let written = self.node(spec);
            let outputs = node.outputs.iter().zip(written).filter_map(|(output, value)| output.zip(value));
            here.extend(outputs);
        }
        let output = |&id: &ValueId| Ok((Arc::from(graph.value_name(id)), *here.get(&id).ok_or_else(|| unknown(id))?));
        graph.outputs().iter().map(output).collect()
    }
}
