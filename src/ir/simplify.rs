//! The same computation with fewer nodes.
//!
//! Exporters write out, in every layer again, how shapes are computed; gradients put reshapes behind one another. What facts tell is
//! known without computing it, and what a graph's integers determine is computed once:
//!
//! [`INSTEAD`] and [`REWRITES`] say what becomes what.
//!
//! Equal nodes of other kinds are left alone: a backward pass computes some values a second time so that they need not be kept, and ONNX
//! Runtime fuses only nodes whose inner values nobody else reads.

mod targets;

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::builder::{Builder, NodeSpec};
use super::dim::Dim;
use super::dtype::DType;
use super::fact::{Fact, Shape};
use super::graph::attr::Attr;
use super::graph::{Graph, Node, ValueId};
use super::operators::Trait;
use super::tensor::Tensor;
use crate::error::Result;
use targets::{expand_target, reshape_target};

/// Constants of up to this many bytes may make what is computed of them equal; comparing larger ones would cost more than it saves.
const SMALL_CONSTANT: usize = 1 << 16;

/// Operators that give their first input back where type and shape stay the same.
const IDLE_IF_SAME: &[&str] = &["Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Writes `graph` with fewer nodes, under the same inputs and outputs. Values that are left keep their ids.
///
/// # Errors
/// None for a finished graph: only what [`Builder::finish`] refuses.
pub fn simplify(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let mut pass = Pass {
        graph,
        b: &b,
        same: FxHashMap::default(),
        forms: FxHashMap::default(),
        determined: determined_at_start(graph),
        equal: FxHashMap::default(),
        numbers: FxHashMap::default(),
    };
    for node in graph.nodes() {
        pass.visit(node);
    }
    b.finish()
}

/// For each value that no node makes, whether it is a whole-number input or a small constant. Integers that a large constant stands for are weights.
fn determined_at_start(graph: &Graph) -> Vec<bool> {
    let mut determined = vec![false; graph.values().len()];
    for (id, tensor) in graph.initializers() {
        determined[id.index()] = tensor.dtype().bytes(tensor.len()) <= SMALL_CONSTANT;
    }
    for &input in graph.inputs() {
        let is_whole = graph.fact(input).dtype.is_some_and(|dtype| !dtype.is_float());
        let is_small = graph.initializer(input).is_none() || determined[input.index()];
        determined[input.index()] = is_whole && is_small;
    }
    determined
}

struct Pass<'g> {
    graph: &'g Graph,
    b: &'g Builder,
    /// What stands for a value now.
    same: FxHashMap<ValueId, ValueId>,
    /// The nodes that were given another form, by what they write.
    forms: FxHashMap<ValueId, Node>,
    /// For each value of the graph, whether whole-number inputs, lengths and small constants determine it.
    determined: Vec<bool>,
    equal: FxHashMap<Key, ValueId>,
    numbers: FxHashMap<(DType, Shape, Vec<Dim>), ValueId>,
}

/// What makes two nodes equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op: Arc<str>,
    inputs: Vec<Option<ValueId>>,
    attrs: Vec<(Arc<str>, Attr)>,
}

/// A node with one output that a pass has come to.
struct Seen<'n> {
    node: &'n Node,
    output: ValueId,
    /// Whether whole-number inputs, lengths and small constants determine the output.
    is_determined: bool,
}

/// What stands for the output of a node from now on; the first row that finds something counts.
type Instead = fn(&mut Pass<'_>, &Seen<'_>) -> Option<ValueId>;

/// What is found, and what stands for it.
static INSTEAD: &[(&str, Instead)] = &[
    ("whole numbers that facts tell, or a `Constant`: an initializer, shared", |pass, seen| {
        let tensor = pass.constant(seen.node, seen.output)?;
        Some(pass.b.constant(tensor).id())
    }),
    ("`Reshape`, `Expand`, `Cast`, `Identity`, `Transpose`, .. that changes nothing, or a view back: what it reads", |pass, seen| {
        pass.idle(seen.node, seen.output)
    }),
    ("a vector of whole numbers with the same symbolic elements as one before: that one", |pass, seen| pass.equal_numbers(seen.output)),
    ("a node equal to one before, which neither weights nor float inputs reach, or an equal view: that one", |pass, seen| {
        pass.equal_node(seen.node, seen.output, seen.is_determined)
    }),
];

/// How a node that stays depends on less, or does more.
type Rewrite = fn(&mut Pass<'_>, &Node, ValueId);

/// The operator, what its node becomes, and how.
static REWRITES: &[(&str, &str, Rewrite)] = &[
    (
        "Reshape",
        "views of views: one of the first, to a constant where its axes and one other length determine it",
        |pass, node, output| {
            pass.ease_reshape(node, output);
        },
    ),
    ("Expand", "the same to a constant where the input's axes determine it", |pass, node, output| pass.ease_expand(node, output)),
    ("Transpose", "of a matrix behind `Gemm`: part of `Gemm`", |pass, node, output| pass.transpose_product(node, output)),
    ("Gemm", "of transposed matrices: of the matrices", |pass, node, output| pass.read_before_transposes(node, output)),
    ("Mul", "of a view and one number: the view of the product", |pass, node, output| pass.scale_before_view(node, output)),
    ("Div", "of a view and one number: the view of the quotient", |pass, node, output| pass.scale_before_view(node, output)),
];

impl<'g> Pass<'g> {
    fn visit(&mut self, node: &'g Node) {
        let is_plain = !node.is_fence()
            && node.captures.is_empty()
            && !Trait::Random.is_of(&node.op)
            && !node.attrs.values().any(|attr| matches!(attr, Attr::Graph(_)));
        let is_determined = is_plain && (Trait::Lengths.is_of(&node.op) || node.reads().all(|id| self.is_determined(id)));
        for output in node.writes() {
            self.determined[output.index()] = is_determined;
        }
        let &[Some(output)] = &node.outputs[..] else { return };
        if !is_plain {
            return;
        }
        let seen = Seen { node, output, is_determined };
        if let Some(instead) = INSTEAD.iter().find_map(|(_, instead)| instead(self, &seen)) {
            return self.replace(output, instead);
        }
        for (_, _, rewrite) in REWRITES.iter().filter(|(op, ..)| *op == &*node.op) {
            rewrite(self, node, output);
        }
        // Views that were written differently may have become equal.
        if Trait::View.is_of(&node.op) {
            let node = self.b.maker(output).unwrap_or_else(|| node.clone());
            if let Some(instead) = self.equal_node(&node, output, is_determined).filter(|&instead| instead != output) {
                self.replace(output, instead);
            }
        }
    }

    /// The node that writes a value now.
    fn writer(&self, id: ValueId) -> Option<&Node> {
        self.forms.get(&id).or_else(|| self.graph.producer(id).map(|node| self.graph.node(node)))
    }

    fn reform(&mut self, output: ValueId, form: Node) {
        self.b.replace_node(output, form.clone());
        self.forms.insert(output, form);
    }

    fn is_determined(&self, id: ValueId) -> bool {
        self.determined.get(id.index()).copied().unwrap_or_default()
    }

    fn replace(&mut self, old: ValueId, new: ValueId) {
        self.b.rewire(self.b.expr(old), |_| self.b.expr(new));
        self.same.insert(old, new);
    }

    fn now(&self, id: ValueId) -> ValueId {
        self.same.get(&id).copied().unwrap_or(id)
    }

    fn fact(&self, id: ValueId) -> Fact {
        self.b.fact(id)
    }

    /// The tensor that a value certainly is.
    fn constant(&self, node: &Node, output: ValueId) -> Option<Tensor> {
        if let ("Constant", Some(Attr::Tensor(tensor))) = (&*node.op, node.attrs.get("value")) {
            return Some(tensor.clone());
        }
        let fact = self.graph.fact(output);
        let (Some(DType::I64), Some(shape), Some(elements)) = (fact.dtype, fact.known_shape(), fact.known_contents()) else { return None };
        let shape: Vec<usize> = shape.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        Tensor::of_facts(&shape, &elements)
    }

    /// What a node gives back unchanged.
    fn idle(&self, node: &Node, output: ValueId) -> Option<ValueId> {
        let input = self.now(node.input(0)?);
        let unchanged = match &*node.op {
            "Transpose" => node.ints("perm").is_some_and(|perm| (0..).zip(perm).all(|(axis, &from)| axis == from)),
            "Concat" => node.inputs.len() == 1,
            op if IDLE_IF_SAME.contains(&op) => {
                let (from, to) = (self.fact(input), self.graph.fact(output));
                from.dtype.is_some() && from.shape.is_some() && from.dtype == to.dtype && from.shape == to.shape
            }
            _ => false,
        };
        if unchanged {
            return Some(input);
        }
        // A view that goes back to a shape that one of the views before it had.
        let shape = self.graph.fact(output).shape.as_ref().filter(|_| Trait::View.is_of(&node.op))?;
        self.viewed(input).into_iter().find(|&id| self.fact(id).shape.as_ref() == Some(shape))
    }

    /// What a value is a view of: the views from the last to the first, and what the first one views.
    fn viewed(&self, id: ValueId) -> Vec<ValueId> {
        let mut all = vec![];
        let mut at = id;
        while let Some(node) = self.writer(at).filter(|node| Trait::View.is_of(&node.op) && !node.is_fence()) {
            let Some(from) = node.input(0) else { break };
            at = self.now(from);
            all.push(at);
        }
        all
    }

    /// The value seen before that has the same whole numbers, known or not.
    fn equal_numbers(&mut self, output: ValueId) -> Option<ValueId> {
        let Fact { dtype: Some(dtype), shape: Some(shape), contents: Some(contents) } = self.graph.fact(output) else { return None };
        match self.numbers.entry((*dtype, shape.clone(), contents.clone())) {
            Entry::Occupied(found) => Some(*found.get()),
            Entry::Vacant(free) => {
                free.insert(output);
                None
            }
        }
    }

    /// The output of an equal node seen before, for nodes that may be shared.
    fn equal_node(&mut self, node: &Node, output: ValueId, is_determined: bool) -> Option<ValueId> {
        if !is_determined && !Trait::View.is_of(&node.op) {
            return None;
        }
        let key = Key {
            op: Arc::clone(&node.op),
            inputs: node.inputs.iter().map(|id| id.map(|id| self.now(id))).collect(),
            attrs: node.attrs.iter().map(|(name, attr)| (Arc::clone(name), attr.clone())).collect(),
        };
        match self.equal.entry(key) {
            Entry::Occupied(found) => Some(*found.get()),
            Entry::Vacant(free) => {
                free.insert(output);
                None
            }
        }
    }

    fn ease_reshape(&self, node: &Node, output: ValueId) {
        if node.int("allowzero", 0) != 0 {
            return;
        }
        let (Some(input), Some(to)) = (node.input(0).map(|id| self.now(id)), self.graph.fact(output).shape.as_ref()) else { return };
        let sources = self.viewed(input).into_iter().rev().chain([input]);
        let mut eased = sources.filter_map(|source| Some((source, reshape_target(self.fact(source).shape.as_ref()?, to)?)));
        if let Some((source, target)) = eased.next() {
            self.b.rewire_input(output, 0, self.b.expr(source));
            self.b.rewire_input(output, 1, self.b.ints(&target));
        }
    }

    fn ease_expand(&self, node: &Node, output: ValueId) {
        let (Some(input), Some(to)) = (node.input(0).map(|id| self.now(id)), self.graph.fact(output).shape.as_ref()) else { return };
        if let Some(target) = self.fact(input).shape.as_ref().and_then(|from| expand_target(from, to)) {
            self.b.rewire_input(output, 1, self.b.ints(&target));
        }
    }

    /// `(A B)ᵀ = Bᵀ Aᵀ`, where nobody else reads the product.
    fn transpose_product(&mut self, node: &Node, output: ValueId) {
        let Some(product) = node.input(0).filter(|_| is_matrix_transpose(node)).map(|id| self.now(id)) else { return };
        let Some(gemm) = self.writer(product).filter(|writer| &*writer.op == "Gemm" && writer.input(2).is_none()) else { return };
        if self.graph.uses(product).len() != 1 || self.graph.is_output(product) {
            return;
        }
        let (a, b) = (gemm.input(0).map(|id| self.now(id)), gemm.input(1).map(|id| self.now(id)));
        let flipped = |name: &str| Attr::Int(1 - gemm.int(name, 0));
        let mut attrs = gemm.attrs.clone();
        attrs.insert("transA".into(), flipped("transB"));
        attrs.insert("transB".into(), flipped("transA"));
        let form = Node { op: "Gemm".into(), inputs: vec![b, a], attrs, ..node.clone() };
        self.reform(output, form);
    }

    /// `Gemm` reads what was transposed for it as it was.
    fn read_before_transposes(&mut self, node: &Node, output: ValueId) {
        let mut form = node.clone();
        for (at, flag) in ["transA", "transB"].into_iter().enumerate() {
            let Some(input) = node.input(at).map(|id| self.now(id)) else { return };
            let source = self.writer(input).filter(|writer| is_matrix_transpose(writer)).and_then(|writer| writer.input(0));
            form.inputs[at] = Some(source.map_or(input, |id| self.now(id)));
            if source.is_some() {
                form.attrs.insert(flag.into(), Attr::Int(i64::from(node.int(flag, 0) == 0)));
            }
        }
        if form.attrs != node.attrs {
            form.inputs.iter_mut().flatten().for_each(|id| *id = self.now(*id));
            self.reform(output, form);
        }
    }

    /// A view times one number is the view of the product: the view may then meet the one that undoes it.
    fn scale_before_view(&mut self, node: &Node, output: ValueId) {
        let &[Some(x), Some(factor)] = &node.inputs[..] else { return };
        let (x, factor) = (self.now(x), self.now(factor));
        let is_number = self.b.constant_of(factor).is_some_and(|tensor| tensor.shape().is_empty());
        let Some(view) = self.writer(x).filter(|writer| is_number && &*writer.op == "Reshape" && !writer.is_fence()) else {
            return;
        };
        let (Some(source), Some(target)) = (view.input(0).map(|id| self.now(id)), view.input(1).map(|id| self.now(id))) else { return };
        let attrs = view.attrs.clone();
        let scaled = self.b.node(NodeSpec {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs: vec![Some(source), Some(factor)],
            outputs: vec![Some("".into())],
            ..NodeSpec::default()
        });
        let &[Some(scaled)] = &scaled[..] else { return };
        let inputs = vec![Some(scaled.id()), Some(target)];
        let form = Node { name: "".into(), op: "Reshape".into(), inputs, attrs, ..node.clone() };
        self.reform(output, form);
    }
}

fn is_matrix_transpose(node: &Node) -> bool {
    &*node.op == "Transpose" && node.ints("perm") == Some(&[1, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Expr, ModelInfo};

    /// What a graph of `x: float[batch, seq, 4]`, `w: float[4, 4]` and `ids: int64[batch, seq]` becomes, a node a line.
    fn simplified(write: impl for<'g> FnOnce(&'g Builder, [Expr<'g>; 3]) -> Expr<'g>) -> Vec<String> {
        let b = Builder::new(ModelInfo::dialect());
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let x = b.input("x", DType::F32, &[batch.clone(), seq.clone(), Dim::known(4)]);
        let w = b.input("w", DType::F32, &[Dim::known(4), Dim::known(4)]);
        let ids = b.input("ids", DType::I64, &[batch, seq]);
        let y = write(&b, [x, w, ids]);
        b.output("y", y);
        let graph = simplify(&b.finish().expect("a sound graph")).expect("a simpler one");
        let name = |id: ValueId| match graph.constant(id).and_then(Tensor::to_i64) {
            Some(elements) => format!("{elements:?}"),
            None => graph.value_name(id).to_owned(),
        };
        let line = |node: &Node| {
            let flags = ["transA", "transB"].into_iter().filter(|flag| node.int(flag, 0) == 1).collect::<Vec<_>>().join(" ");
            let inputs = node.reads().map(name).collect::<Vec<_>>().join(", ");
            format!("{} = {}({inputs}) {flags}", node.writes().map(name).collect::<Vec<_>>().join(", "), node.op).trim_end().to_owned()
        };
        graph.nodes().iter().map(line).collect()
    }

    /// A node that is not shared with an equal one.
    fn plain<'g>(b: &'g Builder, op: &str, inputs: &[Expr<'g>], attrs: &[(&str, Attr)]) -> Expr<'g> {
        let spec = NodeSpec {
            op: op.into(),
            inputs: inputs.iter().map(|input| Some(input.id())).collect(),
            outputs: vec![Some("".into())],
            attrs: attrs.iter().map(|(name, attr)| ((*name).into(), attr.clone())).collect(),
            ..NodeSpec::default()
        };
        b.node(spec)[0].expect("one output")
    }

    #[test]
    fn a_body_that_reads_equal_constants_reads_the_one_that_is_left() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch")]);
        let cap = || plain(&b, "Constant", &[], &[("value", Attr::Tensor(Tensor::from_f32(&[], &[30.0])))]);
        let body = b.body("capped");
        body.output("capped", (body.capture(x) / body.capture(cap())).tanh() * body.capture(cap()));
        let body = body.finish_body().expect("a sound body");
        b.output("y", b.op_with_bodies("If", &[Some(b.input("choice", DType::Bool, &[]))], vec![("then_branch", body)], 1)[0]);
        let graph = simplify(&b.finish().expect("a sound graph")).expect("a simpler one");
        let node = graph.nodes().iter().find(|node| &*node.op == "If").expect("the choice stays");
        let body = node.attrs["then_branch"].graphs().first().expect("a body");
        let inside: Vec<&str> = body.captured().iter().map(|&id| body.value_name(id)).collect();
        assert_eq!(inside, ["x", "constant", "constant"]);
    }

    #[test]
    fn what_a_body_reads_has_its_name_of_now() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch")]);
        let cap = plain(&b, "Constant", &[], &[("value", Attr::Tensor(Tensor::from_f32(&[], &[30.0])))]);
        let body = b.body("capped");
        body.output("divided", body.capture(x) / body.capture(cap));
        let body = body.finish_body().expect("a sound body");
        b.output("y", b.op_with_bodies("If", &[Some(b.input("choice", DType::Bool, &[]))], vec![("then_branch", body)], 1)[0]);
        b.rewire(x, |x| -x);
        let graph = simplify(&b.finish().expect("a sound graph")).expect("a simpler one");
        let node = graph.nodes().iter().find(|node| &*node.op == "If").expect("the choice stays");
        let around: Vec<&str> = node.captures.iter().map(|&id| graph.value_name(id)).collect();
        let body = node.attrs["then_branch"].graphs().first().expect("a body");
        let inside: Vec<&str> = body.captured().iter().map(|&id| body.value_name(id)).collect();
        assert_eq!((inside, around), (vec!["Neg:0", "constant"], vec!["Neg:0", "constant"]));
    }

    #[test]
    fn the_shape_that_a_reshape_goes_to_need_not_be_computed() {
        let lines = simplified(|b, [x, _, ids]| {
            let shape = plain(b, "Concat", &[plain(b, "Shape", &[ids], &[]), b.ints(&[2, 2])], &[("axis", Attr::Int(0))]);
            plain(b, "Reshape", &[x, shape], &[])
        });
        assert_eq!(lines, ["y = Reshape(x, [0, 0, 2, 2])"]);
    }

    #[test]
    fn views_of_views_are_views_of_the_first_and_those_that_go_back_are_none() {
        let flat = |b: &Builder, x: ValueId| plain(b, "Reshape", &[b.expr(x), b.ints(&[-1, 4])], &[]).id();
        let lines = simplified(|b, [x, ..]| {
            let shape = plain(b, "Shape", &[x], &[]);
            let back = plain(b, "Reshape", &[b.expr(flat(b, x.id())), shape], &[]);
            plain(b, "Reshape", &[-back, b.ints(&[-1, 2])], &[])
        });
        assert_eq!(lines, ["Neg:0 = Neg(x)", "y = Reshape(Neg:0, [-1, 2])"]);
        let lines = simplified(|b, [x, ..]| {
            let shape = plain(b, "Concat", &[plain(b, "Shape", &[x], &[])], &[("axis", Attr::Int(0))]);
            let scaled = plain(b, "Reshape", &[b.expr(flat(b, (-x).id())), shape], &[]) * 3.0;
            b.expr(flat(b, scaled.id())).exp()
        });
        assert_eq!(
            lines,
            ["Neg:0 = Neg(x)", "Mul:0 = Mul(Neg:0, constant_1)", "Reshape_2:0 = Reshape(Mul:0, [-1, 4])", "y = Exp(Reshape_2:0)"]
        );
    }

    #[test]
    fn what_whole_numbers_determine_is_computed_once_and_what_weights_reach_stays_twice() {
        let twice = |b: &Builder, of: ValueId| {
            let cast = |of: ValueId| plain(b, "Sin", &[plain(b, "Cast", &[b.expr(of)], &[("to", Attr::Int(1))])], &[]);
            (cast(of) + cast(of)).id()
        };
        let lines = simplified(|b, [_, _, ids]| b.expr(twice(b, ids.id())));
        assert_eq!(lines, ["Cast:0 = Cast(ids)", "Sin:0 = Sin(Cast:0)", "y = Add(Sin:0, Sin:0)"]);
        let lines = simplified(|b, [_, w, _]| plain(b, "Exp", &[w], &[]) + plain(b, "Exp", &[w], &[]));
        assert_eq!(lines.len(), 3, "{lines:?}");
        let lines = simplified(|b, [_, _, ids]| {
            let like = |b: &Builder| plain(b, "RandomNormalLike", &[ids], &[("dtype", Attr::Int(1))]).id();
            b.expr(like(b)) + b.expr(like(b))
        });
        assert_eq!(lines.len(), 3, "{lines:?}");
    }

    #[test]
    fn products_transpose_while_they_read_and_write() {
        let transposed = |b: &Builder, x: ValueId| plain(b, "Transpose", &[b.expr(x)], &[("perm", Attr::Ints(vec![1, 0]))]).id();
        let lines = simplified(|b, [x, w, _]| {
            let rows = plain(b, "Reshape", &[x, b.ints(&[-1, 4])], &[]);
            let product = plain(b, "Gemm", &[rows, b.expr(transposed(b, w.id()))], &[]);
            b.expr(transposed(b, product.id()))
        });
        assert_eq!(lines, ["Reshape:0 = Reshape(x, [-1, 4])", "y = Gemm(w, Reshape:0) transB"]);
    }

    #[test]
    fn lengths_that_cannot_be_told_stay_computed() {
        struct Case(&'static [&'static str], &'static [&'static str], Option<&'static [i64]>);
        let dims =
            |names: &[&str]| names.iter().map(|name| name.parse().map_or_else(|_| Dim::symbol(name), Dim::known)).collect::<Vec<_>>();
        for Case(from, to, target) in [
            Case(&["a", "b", "8"], &["a", "b", "2", "4"], Some(&[0, 0, 2, 4])),
            Case(&["a", "8"], &["b", "2", "4"], Some(&[-1, 2, 4])),
            Case(&["8", "a"], &["a", "8"], Some(&[-1, 8])),
            Case(&["ab", "8"], &["a", "b", "8"], None),
            Case(&["a", "0"], &["0", "a"], None),
        ] {
            assert_eq!(reshape_target(&dims(from), &dims(to)).as_deref(), target, "{from:?} to {to:?}");
        }
        assert_eq!(expand_target(&dims(&["a", "1"]), &dims(&["3", "a", "5"])), Some(vec![3, 1, 5]));
        assert_eq!(expand_target(&dims(&["1"]), &dims(&["a"])), None);
    }
}
