//! Fused and quantised operators decomposed into standard ones, so that gradients can pass and projections can be seen.
//!
//! `forms` has one row an operator: a function that writes what the operator's page says it computes. Values keep their ids and names,
//! those of a fused node's outputs too, so that what is found in the decomposed graph holds in the fused graph as far as its values are
//! there. A node whose form is beyond what is written here stays as it is.
//!
//! A cache is taken to hold as many keys as it is long, the same for every row, as while training and with caches that grow.

mod activation;
mod attention;
mod bits4;
mod branch;
mod class_losses;
mod cuda;
mod experts;
mod forms;
mod grouped;
mod join;
mod norm;
mod packed;
mod quantized;
mod resample;
mod rotary;
mod rounding;
mod still;

pub use branch::{Decoder, is_of_cache, specialise, without_unread_cache};
pub use cuda::for_cuda;
pub use join::{is_merged_export, join};
pub use rounding::{rounds_inside, without_rounding};
pub use still::{Stilled, still};

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Refusal, Result};
use crate::ir::{Attr, Builder, Expr, Graph, Node, NodeSpec};
use forms::Decomposition;

/// The same graph with every fused or quantised operator decomposed into standard ones.
///
/// # Errors
/// Nodes that do not go together, such as a product of matrices that do not fit.
pub fn decompose(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let mut replaced = decomposed(&b, graph, &[forms::ATTENTION, forms::ELSEWHERE]);
    replaced.extend(quantized::integer_products(&b, graph));
    take_over(&b, graph, replaced);
    keep_names(&b, graph);
    b.finish()
}

/// The same graph with attention and embeddings decomposed, where virtual tokens are put; norms, activations and products stay fused.
///
/// # Errors
/// As [`decompose`].
pub fn open(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    take_over(&b, graph, decomposed(&b, graph, &[forms::ATTENTION]));
    keep_names(&b, graph);
    b.finish()
}

/// The same graph with projections that a fused operator holds, or packs into one value, made visible: one value for the queries, one for
/// the keys, one for the values. Everything stays fused otherwise.
///
/// # Errors
/// As [`decompose`].
pub fn separate(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let replaced = decomposed(&b, graph, &[forms::SEPARATE]);
    take_over(&b, graph, replaced);
    keep_names(&b, graph);
    b.finish()
}

/// The operators that [`decompose`] decomposes, with their domains in front.
pub fn operators() -> impl Iterator<Item = &'static str> {
    [forms::ATTENTION, forms::ELSEWHERE].into_iter().flatten().map(|(op, _)| *op).chain(["MatMulInteger"])
}

/// A table of operators and what they are written as.
type Forms = &'static [(&'static str, Decomposition)];

/// Each output of a fused node with what stands for it.
type Replaced<'g> = Vec<(Expr<'g>, Expr<'g>)>;

/// Writes what the forms say behind the graph's own nodes.
fn decomposed<'g>(b: &'g Builder, graph: &'g Graph, tables: &[Forms]) -> Replaced<'g> {
    let mut replaced = vec![];
    for (id, node) in graph.node_ids() {
        let Some((_, form)) = tables.iter().copied().flatten().find(|(op, _)| *op == &*node.op) else { continue };
        let fused = Fused { b, graph, node };
        match b.scoped(&scope(&node.name), || form(&fused)).and_then(|outputs| fused.paired(outputs)) {
            Ok(pairs) => replaced.extend(pairs),
            Err(why) => tracing::debug!("{} ({}) stays as it is: {why}", node.op, graph.node_label(id)),
        }
    }
    replaced
}

/// What ONNX Runtime's fusions put before the name of a node that they take others into.
const FUSED_NAME: &str = "fused ";

/// What stands before the names of the nodes that are written for a fused one: its own name where that is the path of a module.
/// The name that an optimizer numbered (`FastGelu_AddBias_0`) must not look like one.
fn scope(name: &str) -> String {
    match name.trim_start_matches(FUSED_NAME).trim_end_matches('/') {
        path if path.contains('/') => path.to_owned(),
        name => format!("decomposed::{name}"),
    }
}

/// Puts what was written in the place of what it stands for.
fn take_over<'g>(b: &'g Builder, graph: &Graph, replaced: Replaced<'g>) {
    let mut taken = BTreeSet::new();
    for (old, new) in replaced {
        let is_free = new.id().index() >= graph.values().len() && taken.insert(new.id()) && b.constant_of(new.id()).is_none();
        b.take_over(old, if is_free { new } else { copied(new) });
    }
}

/// Gives each node that now writes a first output the name and the annotations of the one that did: they tell modules.
fn keep_names(b: &Builder, graph: &Graph) {
    for node in graph.nodes() {
        if let Some(output) = node.output(0) {
            b.relabel(output, Arc::clone(&node.name), node.metadata.clone());
        }
    }
}

/// The same value from a node of its own.
fn copied(value: Expr<'_>) -> Expr<'_> {
    let spec = NodeSpec { op: "Identity".into(), inputs: vec![Some(value.id())], outputs: vec![Some("".into())], ..NodeSpec::default() };
    value.b().node(spec).into_iter().flatten().next().unwrap_or(value)
}

/// What a form writes in the place of each output; `None` for one that it does not know, which nobody may want.
type Outputs<'g> = Vec<Option<Expr<'g>>>;

/// A fused node, as its form sees it.
struct Fused<'g> {
    b: &'g Builder,
    graph: &'g Graph,
    node: &'g Node,
}

impl<'g> Fused<'g> {
    /// An input that the operator cannot do without.
    fn x(&self, input: usize) -> Result<Expr<'g>, Refusal> {
        self.given(input).ok_or_else(|| format!("input {input} is missing").into())
    }

    /// An input, unless it was left out.
    fn given(&self, input: usize) -> Option<Expr<'g>> {
        self.node.input(input).map(|id| self.b.expr(id))
    }

    /// Whether anybody may read an output.
    fn wants(&self, output: usize) -> bool {
        self.node.output(output).is_some()
    }

    /// An integer attribute, or the default that the operator's page gives.
    fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name, default)
    }

    /// A float attribute, or the default that the operator's page gives: the number that was meant, not its nearest float32.
    fn float(&self, name: &str, default: f64) -> f64 {
        match self.node.attrs.get(name) {
            Some(Attr::Float(value)) => f64::from(*value),
            _ => default,
        }
    }

    /// A positive number of heads or elements.
    fn count(&self, name: &str) -> Result<i64, Refusal> {
        Some(self.int(name, 0)).filter(|&n| n > 0).and_then(within_reason).ok_or_else(|| format!("{name} is not given").into())
    }

    /// Refuses inputs that the form does not know.
    fn refuse_inputs(&self, inputs: &[usize]) -> Result<(), Refusal> {
        inputs.iter().find(|&&input| self.given(input).is_some()).map_or(Ok(()), |input| Err(format!("with input {input}").into()))
    }

    /// Refuses attributes that ask for more than the form knows: those that are not zero.
    fn refuse_attrs(&self, names: &[&str]) -> Result<(), Refusal> {
        names.iter().find(|name| self.int(name, 0) != 0).map_or(Ok(()), |name| Err(format!("with {name}").into()))
    }

    /// A product inside the node, under a name that tells the module the node is of.
    fn product(&self, op: &str, inputs: &[Option<Expr<'g>>], attrs: &[(&str, Attr)]) -> Result<Expr<'g>, Refusal> {
        let output = self.b.name(self.node.writes().next().ok_or("it has no output")?);
        let spec = NodeSpec {
            name: format!("{}:product", self.node.name.trim_start_matches(FUSED_NAME)).into(),
            op: op.into(),
            inputs: inputs.iter().map(|input| input.map(Expr::id)).collect(),
            outputs: vec![Some(format!("{output}:product").into())],
            attrs: attrs.iter().map(|(name, attr)| ((*name).into(), attr.clone())).collect(),
            ..NodeSpec::default()
        };
        self.b.node(spec).into_iter().flatten().next().ok_or_else(|| "it has no output".into())
    }

    /// Each output of the node with what stands for it.
    fn paired(&self, outputs: Outputs<'g>) -> Result<Replaced<'g>, Refusal> {
        let mut new = outputs.into_iter();
        let mut pairs = vec![];
        for (i, old) in self.node.outputs.iter().enumerate() {
            let new = new.next().flatten();
            if let Some(old) = old {
                pairs.push((self.b.expr(*old), new.ok_or_else(|| format!("output {i} is wanted"))?));
            }
        }
        Ok(pairs)
    }
}

/// The length of an axis, where it must be known.
fn known(x: Expr<'_>, axis: i64, what: &str) -> Result<i64, Refusal> {
    x.dims().ok_or_else(|| format!("the rank of {} is not known", x.name()))?;
    let length = x.dim(axis).as_known().ok_or_else(|| format!("{what} is not known"))?;
    within_reason(length).ok_or_else(|| format!("{what} is {length}").into())
}

/// A number, if it is one of a model: products of two of them fit into 64 bits.
fn within_reason(number: i64) -> Option<i64> {
    i32::try_from(number).is_ok().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_of_fused_nodes_are_no_paths_of_modules() {
        let rows = [
            ("/model/layers.0/attn/GroupQueryAttention", "/model/layers.0/attn/GroupQueryAttention"),
            ("fused /bert/pooler/dense/Gemm", "/bert/pooler/dense/Gemm"),
            ("FastGelu_AddBias_0", "decomposed::FastGelu_AddBias_0"),
            ("", "decomposed::"),
        ];
        for (name, expected) in rows {
            assert_eq!(scope(name), expected);
        }
    }
}
