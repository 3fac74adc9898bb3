//! The same numbers in fewer passes over memory.
//!
//! Beside its products, a step is bound by memory: each elementwise node reads and writes all of an activation. [`FUSIONS`] says which nodes
//! become which. A rule of a gradient stays a formula; what it takes is decided here, where the nodes around it are known.

mod product;

use super::builder::expr::Expr;
use super::builder::{Builder, NodeSpec};
use super::dtype::DType;
use super::graph::attr::Attr;
use super::graph::{Graph, LATER, Node, ValueId};
use crate::error::Result;

/// Writes a simplified graph with fewer passes over large values, under the same inputs and outputs. Sums may be added up in another order.
///
/// # Errors
/// None for a finished graph: only what [`Builder::finish`] refuses.
pub fn fuse(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let pass = Pass { graph, b: &b };
    for node in graph.nodes() {
        let &[Some(output)] = &node.outputs[..] else { continue };
        for (op, _, fusion) in FUSIONS.iter().filter(|(op, ..)| *op == &*node.op) {
            // A row before may have given the node another form.
            if let Some(node) = b.maker(output).filter(|node| &*node.op == *op && node.metadata(LATER).is_none()) {
                let label = if node.name.is_empty() { b.name(output) } else { node.name.clone() };
                b.scoped(label.trim_start_matches('/'), || fusion(&pass, &node, output));
            }
        }
    }
    b.finish()
}

/// How a node takes fewer passes.
type Fusion = fn(&Pass<'_>, &Node, ValueId);

/// The operator, what its node becomes, and how.
static FUSIONS: &[(&str, &str, Fusion)] = &[
    ("Add", "of two parts, each padded with zeros to where the other is: the parts one after another", |pass, node, output| {
        pass.join_padded(node, output);
    }),
    ("Add", "of a product over a short axis and something else: the product, which adds to it while it writes", |pass, node, output| {
        pass.add_in_product(node, output);
    }),
    ("Gemm", "of a narrow matrix times a number: the number is the product's", |pass, node, output| pass.scale_in_product(node, output)),
    ("Transpose", "of a product of transposed matrices: the product the other way round", |pass, node, output| {
        pass.turn_product(node, output);
    }),
    ("Add", "of a value repeated along an axis: of the value", |pass, node, output| pass.read_unexpanded(node, output)),
    ("Sub", "the same", |pass, node, output| pass.read_unexpanded(node, output)),
    ("Mul", "the same", |pass, node, output| pass.read_unexpanded(node, output)),
    ("Div", "the same", |pass, node, output| pass.read_unexpanded(node, output)),
];

struct Pass<'g> {
    graph: &'g Graph,
    b: &'g Builder,
}

impl Pass<'_> {
    /// The node that writes a value now, unless it waits for something.
    fn writer(&self, id: ValueId) -> Option<Node> {
        self.b.maker(id).filter(|node| node.metadata(LATER).is_none())
    }

    /// Whether one node alone reads a value, once.
    fn is_read_once(&self, id: ValueId) -> bool {
        id.index() < self.graph.values().len() && self.graph.uses(id).len() == 1 && !self.graph.is_output(id)
    }

    fn has_shape_of(&self, id: ValueId, other: ValueId) -> bool {
        let shape = self.b.fact(id).shape;
        shape.is_some() && shape == self.b.fact(other).shape
    }

    /// The one number that a value certainly is.
    fn number(&self, id: ValueId) -> Option<f32> {
        self.b.constant_of(id).filter(|tensor| tensor.shape().is_empty())?.to_f32()?.first().copied()
    }

    /// A node of one output, next to what stands there already.
    fn write(&self, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> Option<ValueId> {
        let spec = NodeSpec {
            op: op.into(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some("".into())],
            attrs: attrs.iter().map(|(name, attr)| ((*name).into(), attr.clone())).collect(),
            ..NodeSpec::default()
        };
        self.b.node(spec).first().copied().flatten().map(Expr::id)
    }

    fn reform(&self, output: ValueId, node: &Node, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) {
        let attrs = attrs.iter().map(|(name, attr)| ((*name).into(), attr.clone())).collect();
        self.b.replace_node(output, Node { op: op.into(), inputs: inputs.iter().copied().map(Some).collect(), attrs, ..node.clone() });
    }

    /// `Pad(x, 0 before, q after) + Pad(y, p before, 0 after)`, where `x` is as long as `p` and `y` as `q`.
    fn join_padded(&self, node: &Node, output: ValueId) {
        let &[Some(a), Some(b)] = &node.inputs[..] else { return };
        let (Some(a), Some(b)) = (self.padded(a), self.padded(b)) else { return };
        let (first, second) = if a.before == 0 { (a, b) } else { (b, a) };
        let fits = first.before == 0 && second.after == 0 && first.after == second.length && second.before == first.length;
        if fits && first.axis == second.axis {
            self.reform(output, node, "Concat", &[first.source, second.source], &[("axis", Attr::Int(first.axis))]);
        }
    }

    /// What a value is that is padded with zeros along one axis.
    fn padded(&self, id: ValueId) -> Option<Padded> {
        let node = self.writer(id).filter(|node| &*node.op == "Pad" && node.str("mode").is_none_or(|mode| mode == "constant"))?;
        let zero = node.input(2).is_none_or(|value| self.number(value) == Some(0.0));
        let source = node.input(0).filter(|_| zero && node.input(3).is_none())?;
        let pads = self.b.constant_of(node.input(1)?)?.to_i64()?;
        let (before, after) = pads.split_at(pads.len() / 2);
        let mut axes = before.iter().zip(after).enumerate().filter(|(_, pads)| *pads != (&0, &0));
        let ((at, (&before, &after)), None) = (axes.next()?, axes.next()) else { return None };
        let length = self.b.fact(source).shape?.get(at)?.as_known()?;
        Some(Padded { source, axis: i64::try_from(at).ok()?, before, after, length })
    }

    /// An operand that is the other's shape by `Expand`: broadcasting does the same. What is expanded and meets a number is expanded later.
    fn read_unexpanded(&self, node: &Node, output: ValueId) {
        let &[Some(a), Some(b)] = &node.inputs[..] else { return };
        for (at, operand, other) in [(0, a, b), (1, b, a)] {
            let Some(expand) = self.writer(operand).filter(|writer| &*writer.op == "Expand") else { continue };
            let (Some(source), Some(target)) = (expand.input(0), expand.input(1)) else { continue };
            if self.has_shape_of(other, output) && self.has_shape_of(operand, output) {
                return self.b.rewire_input(output, at, self.b.expr(source));
            }
            if self.number(other).is_some() && self.b.fact(source).rank() == self.b.fact(output).rank() {
                let inputs = if at == 0 { [source, other] } else { [other, source] };
                let Some(small) = self.write(&node.op, &inputs, &[]) else { return };
                return self.reform(output, node, "Expand", &[small, target], &[]);
            }
        }
    }
}

/// A value padded with zeros along one axis.
struct Padded {
    source: ValueId,
    axis: i64,
    before: i64,
    after: i64,
    /// Of the source, along the axis.
    length: i64,
}

fn is_float32(b: &Builder, id: ValueId) -> bool {
    b.fact(id).dtype == Some(DType::F32)
}
