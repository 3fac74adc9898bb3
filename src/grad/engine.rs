//! The reverse sweep.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::composites::composite;
use super::forward::Forward;
use super::refusals::reason;
use super::rules::{Rule, rule};
use super::scan;
use crate::error::{Error, ErrorKind, Refusal, Result};
use crate::ir::{Builder, Expr, Graph, NO_GRADIENT, Node, NodeSpec, Trait, ValueId};

/// The gradient of a loss (rank 0) with respect to each value of `wrt`, in its shape and type; zeros where the loss does not
/// depend on a value.
///
/// ```
/// use peft_onnx::grad::gradients;
/// use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
/// let b = Builder::new(ModelInfo::dialect());
/// let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
/// let loss = x.square().sum_all();
/// let [dx] = gradients(&b, loss, &[x])?[..] else { unreachable!("one for each") };
/// b.output("dx", dx);
/// # b.finish()?;
/// # Ok::<(), peft_onnx::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::NoGradient`] names every node on the way that gradient cannot pass; [`ErrorKind::Graph`] where the graph has a cycle.
pub fn gradients<'g>(b: &'g Builder, loss: Expr<'g>, wrt: &[Expr<'g>]) -> Result<Vec<Expr<'g>>> {
    let found = vjp(b, &[(loss, loss.same_type(1.0))], wrt)?;
    Ok(found.into_iter().zip(wrt).map(|(dx, x)| dx.unwrap_or_else(|| x.zeros_like())).collect())
}

/// For each value `x` of `wrt`, `Σ dyᵀ · ∂y/∂x` over the seeds `(y, dy)` — the vector-Jacobian product, in the shape and type of `x` —
/// or `None` where no seed depends on it.
///
/// It differentiates everything written so far, whether it was loaded or built. Whoever knows the gradient of the logits
/// (losses do) starts from there: the loss itself need not be differentiated.
///
/// # Errors
/// As [`gradients`].
pub fn vjp<'g>(b: &'g Builder, seeds: &[(Expr<'g>, Expr<'g>)], wrt: &[Expr<'g>]) -> Result<Vec<Option<Expr<'g>>>> {
    let gradients = pull_back(b, seeds, wrt)?;
    Ok(wrt.iter().map(|x| gradients.of(x.id())).collect())
}

/// The gradients of all values between seeds and those asked for.
#[derive(Debug)]
pub struct Gradients<'g>(BTreeMap<ValueId, Expr<'g>>);

impl<'g> Gradients<'g> {
    /// The gradient of a value, in its shape and type; none if no seed depends on it, or it does not depend on what was asked for.
    #[must_use]
    pub fn of(&self, value: ValueId) -> Option<Expr<'g>> {
        self.0.get(&value).copied()
    }
}

/// As [`vjp`], with the gradients of the values on the way.
///
/// # Errors
/// As [`gradients`].
pub fn pull_back<'g>(b: &'g Builder, seeds: &[(Expr<'g>, Expr<'g>)], wrt: &[Expr<'g>]) -> Result<Gradients<'g>> {
    let sweep = Sweep::run(b, seeds, wrt)?;
    if !sweep.missing.is_empty() {
        let lines = sweep.missing.iter().map(ToString::to_string).collect();
        return Err(
            Error::from(ErrorKind::NoGradient(lines)).with_hint("`peft-onnx inspect MODEL --ops` lists every op without a gradient")
        );
    }
    Ok(Gradients(sweep.gradients))
}

/// The nodes between the values of `from` and those of `to` that gradient cannot pass, last first; empty if it can be computed.
///
/// # Errors
/// [`ErrorKind::Graph`] where the graph has a cycle, which a finished one has not.
pub fn missing(graph: &Graph, from: &[ValueId], to: &[ValueId]) -> Result<Vec<Refusal>> {
    let b = Builder::on(graph);
    let seeds: Vec<(Expr, Expr)> = to.iter().map(|&y| (b.expr(y), b.expr(y))).collect();
    let wrt: Vec<Expr> = from.iter().map(|&x| b.expr(x)).collect();
    Ok(Sweep::run(&b, &seeds, &wrt)?.missing)
}

/// What the sweep knows between two nodes.
struct Sweep<'g> {
    b: &'g Builder,
    /// Values that depend on those asked for, these among them.
    live: FxHashSet<ValueId>,
    /// Weights that the graph dequantises: large values made of constants alone.
    dequantised: FxHashSet<ValueId>,
    /// Values that may be NaN, and what the graph has in their place.
    guarded: BTreeMap<ValueId, ValueId>,
    /// Sum of the contributions so far.
    gradients: BTreeMap<ValueId, Expr<'g>>,
    missing: Vec<Refusal>,
}

impl<'g> Sweep<'g> {
    fn run(b: &'g Builder, seeds: &[(Expr<'g>, Expr<'g>)], wrt: &[Expr<'g>]) -> Result<Self> {
        let nodes = b.sorted_nodes()?;
        let mut sweep = Self {
            b,
            live: live(b, &nodes, wrt),
            dequantised: dequantised(b, &nodes),
            guarded: guarded(b, &nodes),
            gradients: BTreeMap::new(),
            missing: vec![],
        };
        for &(y, dy) in seeds {
            sweep.add(y, dy);
        }
        for node in nodes.iter().rev() {
            let dys: Vec<Option<Expr>> = node.outputs.iter().map(|&y| sweep.gradient(y?)).collect();
            if dys.iter().any(Option::is_some) {
                b.scoped(&format!("grad/{}", label(b, node).trim_start_matches('/')), || sweep.pass(node, dys));
            }
        }
        Ok(sweep)
    }

    /// The gradient of a value, if the values asked for have to do with it.
    fn gradient(&self, y: ValueId) -> Option<Expr<'g>> {
        self.gradients.get(&y).copied().filter(|_| self.live.contains(&y))
    }

    /// Adds a contribution to the gradient of `x`: summed to its shape and cast to its type.
    fn add(&mut self, x: Expr<'g>, dx: Expr<'g>) {
        let dx = dx.sum_to(x);
        // The gradient of rounded numbers is not rounded.
        let dx = x.fact().dtype.filter(|dtype| dtype.is_float()).map_or(dx, |dtype| dx.cast(dtype));
        self.gradients.entry(x.id()).and_modify(|sum| *sum = *sum + dx).or_insert(dx);
    }

    /// Passes the gradients of a node's outputs on to its inputs.
    fn pass(&mut self, node: &Node, dys: Vec<Option<Expr<'g>>>) {
        if &*node.op == "Scan" {
            return match scan::backward(self.b, node, &dys, |x| self.live.contains(&x), vjp) {
                Ok(found) => found.into_iter().for_each(|(x, dx)| self.add(x, dx)),
                Err(why) => self.stuck(node, why),
            };
        }
        let Some(rule) = rule(&node.op) else {
            return self.stuck(node, reason(&node.op));
        };
        let second = dys.iter().skip(1).position(Option::is_some);
        if matches!(rule, Rule::StraightThrough(_)) && dys[0].is_none() {
            return;
        }
        if let (Some(at), Rule::Inputs(_) | Rule::Each(_)) = (second, rule) {
            return self.stuck(node, format!("a gradient reaches output {}, the rule is for output 0", at + 1));
        }
        if let Some(unknown) =
            node.reads().filter(|x| self.live.contains(x)).chain(node.writes()).find(|&v| self.b.fact(v).rank().is_none())
        {
            return self.stuck(node, format!("the rank of {} is unknown", self.b.name(unknown)));
        }
        if let Some((x, dx)) = dys[0].and_then(|dy| composite(self.b, node, dy)).filter(|(x, _)| self.live.contains(x)) {
            return self.add(self.b.expr(x), dx);
        }
        let f = Forward::new(self.b, &self.as_rules_see_it(node), dys);
        for (i, x) in node.inputs.iter().enumerate() {
            let Some(x) = x.filter(|x| self.live.contains(x)) else { continue };
            let dx = match rule {
                Rule::Inputs(each) | Rule::Outputs(each) => match each.get(i) {
                    Some(dx) => dx(&f),
                    None => f.refuse(format!("with respect to input {i}")),
                },
                Rule::Each(dx) => dx(&f, i),
                Rule::StraightThrough(dx) if i == 0 => dx(&f),
                Rule::StraightThrough(_) => continue,
                Rule::Stop => unreachable!("outputs of a stop are not live"),
            };
            match f.refused() {
                Some(why) => return self.stuck(node, why),
                None => self.add(self.b.expr(x), dx),
            }
        }
    }

    /// The node with weights of its own: dequantised a second time, so that they need not stay in memory from the forward pass on. Outputs are
    /// without NaN where the graph has them so: no gradient comes from there, but zero times NaN would be NaN.
    fn as_rules_see_it(&self, node: &Node) -> Node {
        let again = |id: &Option<ValueId>| id.map(|id| if self.dequantised.contains(&id) { self.made_again(id) } else { id });
        let guarded = |id: &Option<ValueId>| id.map(|id| self.guarded.get(&id).copied().unwrap_or(id));
        Node { inputs: node.inputs.iter().map(again).collect(), outputs: node.outputs.iter().map(guarded).collect(), ..node.clone() }
    }

    fn made_again(&self, id: ValueId) -> ValueId {
        let Some(maker) = self.b.maker(id) else { return id };
        let again =
            |input: &Option<ValueId>| input.map(|input| if self.dequantised.contains(&input) { self.made_again(input) } else { input });
        let spec = NodeSpec {
            op: maker.op.clone(),
            inputs: maker.inputs.iter().map(again).collect(),
            outputs: vec![Some("".into())],
            attrs: maker.attrs.clone(),
            ..NodeSpec::default()
        };
        self.b.node(spec).into_iter().flatten().next().map_or(id, Expr::id)
    }

    /// Notes a node that gradient cannot pass, and goes on as if it could, so that nodes before it are looked at too.
    fn stuck(&mut self, node: &Node, why: impl Into<Refusal>) {
        self.missing.push(why.into().of(&*node.op, label(self.b, node)));
        for x in node.reads().filter(|x| self.live.contains(x)) {
            self.gradients.entry(x).or_insert_with(|| self.b.expr(x));
        }
    }
}

/// The values that gradient can reach on its way to `wrt`: numbers computed from them through operators that are not a stop, and those
/// numbers rounded.
fn live(b: &Builder, nodes: &[Node], wrt: &[Expr<'_>]) -> FxHashSet<ValueId> {
    let mut live: FxHashSet<ValueId> = wrt.iter().map(|x| x.id()).collect();
    for node in nodes {
        let rule = rule(&node.op);
        let stops = matches!(rule, Some(Rule::Stop)) || node.metadata(NO_GRADIENT).is_some();
        if !stops && node.reads().any(|x| live.contains(&x)) {
            let is_number = |y: ValueId| b.fact(y).dtype.is_none_or(crate::ir::DType::is_float);
            let rounds = matches!(rule, Some(Rule::StraightThrough(_))) || node.reads().any(|x| live.contains(&x) && !is_number(x));
            live.extend(node.writes().filter(|&y| rounds || is_number(y)));
        }
    }
    live
}

/// Values of at least so many numbers count as weights.
const LARGE: i64 = 1024;
/// Operators that may stand behind them, before the product.
const BEHIND: &[&str] = &["Transpose", "Reshape", "Slice", "Pad", "Sub", "Mul"];

/// Large values of one output that follow from constants alone, by way of an operator that dequantises.
fn dequantised(b: &Builder, nodes: &[Node]) -> FxHashSet<ValueId> {
    let (mut found, mut fixed) = (FxHashSet::default(), FxHashSet::default());
    for node in nodes.iter().filter(|node| node.captures.is_empty()) {
        let [Some(y)] = node.outputs[..] else { continue };
        if !node.reads().all(|x| b.is_constant(x) || fixed.contains(&x)) {
            continue;
        }
        fixed.insert(y);
        let is_dequantised = &*node.op == "Cast" || Trait::Dequantises.is_of(&node.op);
        let goes_on = BEHIND.contains(&&*node.op) && node.reads().any(|x| found.contains(&x));
        let is_large = || b.fact(y).known_shape().is_some_and(|shape| shape.iter().fold(1_i64, |n, &d| n.saturating_mul(d)) >= LARGE);
        if (is_dequantised || goes_on) && is_large() {
            found.insert(y);
        }
    }
    found
}

/// For each `x` of a `Where(IsNaN(x), y, x)`, what that gives.
fn guarded(b: &Builder, nodes: &[Node]) -> BTreeMap<ValueId, ValueId> {
    let replaced = |node: &Node| {
        let (condition, x) = (node.input(0)?, node.input(2)?);
        let test = b.maker(condition).filter(|test| &*test.op == "IsNaN")?;
        (test.input(0)? == x).then_some((x, node.output(0)?))
    };
    nodes.iter().filter(|node| &*node.op == "Where").filter_map(replaced).collect()
}

/// A name for messages and scopes: the node's own, or its first output's where it has none.
fn label(b: &Builder, node: &Node) -> String {
    match (node.name.is_empty(), node.writes().next()) {
        (true, Some(output)) => b.name(output).to_string(),
        _ => node.name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, ModelInfo};

    fn builder() -> Builder {
        Builder::new(ModelInfo::dialect())
    }

    fn input<'g>(b: &'g Builder, name: &str) -> Expr<'g> {
        b.input(name, DType::F32, &[Dim::symbol("batch"), Dim::known(4)])
    }

    #[test]
    fn everything_that_gradient_cannot_pass_is_reported_at_once() {
        let b = builder();
        let x = input(&b, "x");
        let hidden = b.op("Dropout", &[x.tanh(), x.same_type(0.5), b.number(1.0, DType::Bool)], &[]);
        let y = b.op("Hypothetical", &[hidden, b.op("Hypothetical", &[x], &[])], &[]);
        b.assume(y.id(), crate::ir::Fact::new(DType::F32, vec![]));
        let error = gradients(&b, y, &[x]).expect_err("two operators have no rule, and one a mode without gradient");
        let ErrorKind::NoGradient(lines) = error.kind() else { panic!("{error}") };
        let expected = [
            "Hypothetical (Hypothetical_1): there is no rule",
            "Hypothetical (Hypothetical): there is no",
            "Dropout (Dropout): in training mode",
        ];
        assert_eq!(lines.len(), expected.len(), "{error}");
        assert!(expected.iter().all(|part| error.to_string().contains(part)), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("inspect MODEL")));
    }

    #[test]
    fn what_does_not_matter_is_not_looked_at() -> Result<()> {
        let b = builder();
        let (x, w) = (input(&b, "x"), input(&b, "w"));
        let frozen = b.op("Hypothetical", &[x], &[]);
        b.assume(frozen.id(), crate::ir::Fact::new(DType::F32, vec![]));
        let elsewhere = b.op("Hypothetical", &[w], &[]);
        let y = w * frozen + w.floor();
        let found = vjp(&b, &[(y, y)], &[w, elsewhere])?;
        assert!(found[0].is_some() && found[1].is_none());
        let zeros = gradients(&b, y.sum_all(), &[elsewhere])?;
        assert_eq!(zeros.len(), 1);
        Ok(())
    }

    #[test]
    fn a_gradient_has_the_type_and_shape_of_its_value() -> Result<()> {
        let b = builder();
        let x = b.input("x", DType::F16, &[Dim::known(4)]);
        let y = (input(&b, "batch") * x.cast(DType::F32)).sum_all();
        let dx = gradients(&b, y, &[x])?[0];
        assert_eq!(dx.fact(), crate::ir::Fact::new(DType::F16, vec![Dim::known(4)]));
        Ok(())
    }

    #[test]
    fn order_of_writing_does_not_matter() -> Result<()> {
        let b = builder();
        let x = input(&b, "x");
        let y = x.tanh();
        let loss = y.sum_all();
        let w = input(&b, "w");
        b.rewire(y, |y| y * w);
        let found = vjp(&b, &[(loss, loss.same_type(1.0))], &[w, x])?;
        assert!(found.iter().all(Option::is_some));
        Ok(())
    }

    #[test]
    fn weights_are_dequantised_again_for_the_way_back() -> Result<()> {
        let stored = |dtype| crate::ir::Tensor::from_f64(dtype, &[4, 512], &[1.0; 4 * 512]);
        // The scales as a vector, or as a matrix that a node makes of it.
        for (op, dtype, in_blocks) in
            [("Cast", DType::F16, false), ("DequantizeLinear", DType::I8, false), ("DequantizeLinear", DType::I8, true)]
        {
            let b = builder();
            let x = input(&b, "x");
            let packed = b.initializer("w", stored(dtype)?);
            let scales = b.initializer("scales", crate::ir::Tensor::from_f32(&[4], &[0.5; 4]));
            let weight = match (op, in_blocks) {
                ("Cast", _) => packed.cast(DType::F32),
                (_, false) => b.op(op, &[packed, scales], &[("axis", 0_i64.into())]),
                _ => b.op(op, &[packed, scales.reshape(&[4, 1])], &[("axis", 1_i64.into()), ("block_size", 512_i64.into())]),
            };
            let weight = weight.id();
            let y = x.matmul(b.expr(weight)).tanh();
            let dx = gradients(&b, y.sum_all(), &[x])?[0];
            b.output("dx", dx);
            let graph = b.finish()?;
            let count = graph.nodes().iter().filter(|node| &*node.op == op).count();
            assert_eq!((count, graph.uses(weight).len()), (2, 1), "{op}: one for the product, one for its gradient");
        }
        Ok(())
    }

    #[test]
    fn nodes_are_named_after_those_they_are_the_gradient_of() -> Result<()> {
        let b = builder();
        let x = input(&b, "x");
        let y = b.scoped("layer", || x.tanh().exp());
        let dx = gradients(&b, y.sum_all(), &[x])?[0];
        assert!(dx.name().starts_with("grad/layer/Tanh/"), "{}", dx.name());
        Ok(())
    }
}
